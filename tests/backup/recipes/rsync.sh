#!/bin/sh
# Mirrors VAULT to DEST, a directory or HOST:DIRECTORY: first most of it, while programs write, then what has changed meanwhile,
# while they wait. After kmsfs reencrypt, which keeps sizes and times, run it once with --checksum in it.
set -eu
mirror='rsync -aH --delete --inplace --no-whole-file --modify-window=-1'
$mirror "$VAULT/" "$DEST/" || test $? -eq 24 # 24: a file went away
kmsfs freeze --timeout 10m "$VAULT" -- $mirror "$VAULT/" "$DEST/"
