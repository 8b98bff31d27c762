#!/bin/sh
# Mirrors VAULT, a directory of the btrfs SUBVOLUME, to DEST by way of a snapshot: programs wait for the snapshot alone.
set -eu
kmsfs freeze --timeout 10s "$SUBVOLUME/$VAULT" -- btrfs subvolume snapshot -r "$SUBVOLUME" "$SUBVOLUME/.backup"
trap 'btrfs subvolume delete "$SUBVOLUME/.backup"' EXIT
rsync -aH --delete --inplace --no-whole-file --modify-window=-1 "$SUBVOLUME/.backup/$VAULT/" "$DEST/"
