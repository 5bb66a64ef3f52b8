/* A wall clock that can be set, for each process alone.
 *
 * Preloaded (LD_PRELOAD), it adds to what the wall clock says an offset from a file: nanoseconds, a place for each
 * process by its number. The monotonic clock, sleeping and every wait are as the machine has
 * them, as when a real clock is set. A child begins with its parent's offset.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define NS 1000000000LL

static int (*ask)(clockid_t, struct timespec *);
static volatile int64_t *offsets;
static int64_t places;
static pid_t me;

static int64_t offset_of(pid_t process)
{
	return process > 0 && process < places ? offsets[process] : 0;
}

static void inherit(pid_t parent)
{
	me = getpid();
	if (me < places)
		offsets[me] = offset_of(parent);
}

static void in_child(void)
{
	inherit(me);
}

__attribute__((constructor)) static void begin(void)
{
	const char *path = getenv("WALL_OFFSETS");
	struct stat about;

	ask = dlsym(RTLD_NEXT, "clock_gettime");
	int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
	if (file < 0)
		return;
	if (!fstat(file, &about)) {
		void *found = mmap(NULL, about.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
		if (found != MAP_FAILED) {
			offsets = found;
			places = about.st_size / sizeof(int64_t);
		}
	}
	close(file);
	if (places) {
		inherit(getppid());
		pthread_atfork(NULL, NULL, in_child);
	}
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
	if (!ask)
		ask = dlsym(RTLD_NEXT, "clock_gettime");
	int failed = ask(clock, now);
	if (!failed && places && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
		int64_t ns = now->tv_sec * NS + now->tv_nsec + offset_of(me);
		now->tv_sec = ns / NS;
		now->tv_nsec = ns % NS;
	}
	return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
	struct timespec found;

	(void)zone;
	if (clock_gettime(CLOCK_REALTIME, &found))
		return -1;
	now->tv_sec = found.tv_sec;
	now->tv_usec = found.tv_nsec / 1000;
	return 0;
}

time_t time(time_t *now)
{
	struct timespec found;

	if (clock_gettime(CLOCK_REALTIME, &found))
		return -1;
	if (now)
		*now = found.tv_sec;
	return found.tv_sec;
}
