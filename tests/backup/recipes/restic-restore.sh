#!/bin/sh
# Restores the last backup of a vault that restic.sh has made into TARGET.
set -eu
restic restore latest --tag frozen --target "$TARGET"
