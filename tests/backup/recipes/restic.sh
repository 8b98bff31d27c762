#!/bin/sh
# Backs up VAULT to RESTIC_REPOSITORY: first most of it, while programs write, then what has changed meanwhile, while they wait.
set -eu
restic backup --tag moving "$VAULT" || test $? -eq 3 # 3: a file went away
kmsfs freeze --timeout 10m "$VAULT" -- restic backup --tag frozen "$VAULT"
restic forget --tag moving --keep-last 1
