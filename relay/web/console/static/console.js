// Keeps the parts marked `data-live` fresh while somebody looks, and copies; every page works without it.
"use strict";

const EVERY_MS = 5000;

async function freshen(part) {
  // Not under the hands of somebody who is just using it.
  if (document.hidden || part.contains(document.activeElement)) return;
  try {
    const answer = await fetch(part.dataset.live, { headers: { "X-Console-Part": "live" }, redirect: "error" });
    if (answer.status === 403) location.reload(); // the session has ended
    const text = await answer.text();
    if (!answer.ok || part.contains(document.activeElement)) return;
    const open = [...part.querySelectorAll("details[open][id]")].map((one) => one.id);
    part.innerHTML = text;
    for (const id of open) document.getElementById(id)?.setAttribute("open", "");
  } catch { /* the relay is away for a moment; what stands there stays */ }
}

for (const part of document.querySelectorAll("[data-live]")) setInterval(freshen, EVERY_MS, part);

for (const button of document.querySelectorAll("[data-copy]")) {
  if (!navigator.clipboard) continue; // only over https, or on this machine
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
    button.textContent = "Copied";
  });
}
