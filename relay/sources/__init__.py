"""One file a vendor, and nothing else: `ls` of this folder is the list of kinds."""
