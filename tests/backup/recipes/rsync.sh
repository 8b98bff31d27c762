#!/bin/sh
# Mirrors VAULT to DEST, a directory or HOST:DIRECTORY. Add --checksum once after kmsfs reencrypt.
set -eu
kmsfs freeze --timeout 10m "$VAULT" -- rsync -a --delete --inplace --no-whole-file "$VAULT/" "$DEST/"
