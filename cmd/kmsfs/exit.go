package main

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"strings"
	"syscall"

	"kmsfs/envelope"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/manifest"
	"kmsfs/fs/vault/rewrap"
	"kmsfs/fs/vault/sidecar"
	"kmsfs/keysource"
	"kmsfs/keysource/kms/audit"
	"kmsfs/keysource/local"
	"kmsfs/keysource/passphrase"
)

// The kinds of error that only the command knows.
var (
	errUsage        = errors.New("usage")
	errNotKMSFS     = errors.New("neither a vault nor on a mount")
	errMounted      = errors.New("already mounted")
	errMountpoint   = errors.New("mountpoint")
	errOverlap      = errors.New("vault and mountpoint overlap")
	errForeign      = errors.New("another vault")
	errNoKeyStore   = errors.New("no key store")
	errNoFUSE       = errors.New("no /dev/fuse")
	errNoFusermount = errors.New("no fusermount3")
	errNotMounted   = errors.New("not mounted")
	errBusy         = errors.New("busy")
	errKeyNeeded    = errors.New("the CMK or key material is needed")
	errNotFrozen    = errors.New("not frozen")
	errNoCommand    = errors.New("the command cannot be started")
	errNoControl    = errors.New("no answer on the control socket")
	errUnproven     = errors.New("it cannot be told whether the CMK or key material is needed")
)

// exitUsage is the code for a wrong command line.
const exitUsage = 2

// Exit codes of mount(8), for mount.kmsfs.
const (
	mountUsage     = 1
	mountSystem    = 2
	mountInterrupt = 8
	mountFailure   = 32
)

// exit is one row of the table of exit codes.
type exit struct {
	code  int
	mount int    // the code of mount.kmsfs
	when  string // documentation
	hint  string // what to do, where the error itself does not say
	errs  []error
}

// exitTable is the one table of exit codes: kmsfs help exit-codes, the man pages and the tests show it. An error is of
// the first row that has one of its kinds.
func exitTable() []exit {
	return []exit{
		{0, 0, "done", "", nil},
		{130, mountInterrupt, "interrupted", "", []error{context.Canceled}},
		{30, mountFailure, "rewrap: some keys were not rewrapped, and are as they were", "", []error{rewrap.ErrIncomplete}},
		{32, mountFailure, "reencrypt: some files are not wholly under new data keys; they read as before", "", []error{vault.ErrUnfinished}},
		{31, mountFailure, "rewrap: all keys were rewrapped, but the CMK of new files was not changed", "", []error{rewrap.ErrKeyKept}},
		{27, mountFailure, "verify: the CMK or key material is needed; key schedule-deletion: a known vault needs the CMK", "", []error{errKeyNeeded}},
		{28, mountFailure, "verify, key schedule-deletion: it cannot be told whether the CMK or key material is needed", "", []error{errUnproven}},
		{exitUsage, mountUsage, "wrong usage: verb, argument, flag or mount option", "kmsfs --help", []error{errUsage,
			keysource.ErrInvalidArgument}},
		{5, mountFailure, "the vault is in use, or the mountpoint is a mount of kmsfs already", "kmsfs status",
			[]error{vault.ErrLocked, errMounted}},
		{6, mountFailure, "the mountpoint is missing, not a directory, not empty or a dead mount", "",
			[]error{errMountpoint}},
		{7, mountFailure, "vault and mountpoint are the same directory or one is inside the other",
			"name a mountpoint outside the vault", []error{errOverlap}},
		{9, mountFailure, "not a vault; for info: neither a vault nor a file on a mount", "kmsfs init VAULT",
			[]error{vault.ErrNotVault, errNotKMSFS}},
		{4, mountFailure, "a vault exists there, or the directory is not empty", "name an empty directory",
			[]error{vault.ErrNotEmpty}},
		{13, mountFailure, "wrong or missing passphrase or master key file", "name the right one: --passphrase-from or --master-key-file",
			[]error{local.ErrMasterKey, passphrase.ErrEmpty, passphrase.ErrTooLong, passphrase.ErrMismatch,
				passphrase.ErrNoTerminal}},
		{14, mountFailure, "others can read or replace the master key file", "", []error{local.ErrInsecure}},
		{12, mountFailure, "the key store is damaged", "restore the key store from a backup", []error{local.ErrDamaged}},
		{11, mountFailure, "no key store", "kmsfs init makes one; --key-store names another", []error{errNoKeyStore}},
		{10, mountFailure, "a format, feature or keysource that this version does not have",
			"use the version of kmsfs that wrote it", []error{envelope.ErrUnsupported, keysource.ErrUnsupported, manifest.ErrVersion}},
		{15, mountFailure, "the CMK is disabled, pending import or pending deletion", "kmsfs key list",
			[]error{keysource.ErrDisabled, keysource.ErrInvalidState}},
		{16, mountFailure, "the keysource denies the use of the CMK", "", []error{keysource.ErrDenied}},
		{17, mountFailure, "no such CMK or alias", "kmsfs key list", []error{keysource.ErrNotFound}},
		{8, mountFailure, "wrong key: the CMK does not open the vault",
			"name the key store that the vault was made with: --key-store DIR", []error{envelope.ErrWrongKey,
				keysource.ErrInvalidCiphertext, keysource.ErrIncorrectKey}},
		{3, mountFailure, "the vault is damaged or was edited or exchanged, or has lost data keys; verify: damage was found, or a manifest that cannot be trusted", "restore .kmsfs/vault.json from a backup of the vault",
			[]error{errForeign, envelope.ErrCorrupt, vault.ErrCorrupt, sidecar.ErrNoRecord, manifest.ErrSignature, manifest.ErrMalformed}},
		{18, mountFailure, "the keysource cannot be reached or throttles", "try again", []error{keysource.ErrUnavailable,
			keysource.ErrThrottled, keysource.ErrClosed, local.ErrLocked, context.DeadlineExceeded}},
		{19, mountSystem, "/dev/fuse is missing or cannot be opened", "sudo modprobe fuse", []error{errNoFUSE}},
		{20, mountSystem, "fusermount3 is missing, which users other than root need", "sudo apt-get install -y fuse3",
			[]error{errNoFusermount}},
		{29, mountFailure, "ctl: the daemon of the mount cannot be reached or ended", "", []error{errNoControl}},
		{23, mountFailure, "not mounted", "kmsfs status", []error{errNotMounted}},
		{33, mountFailure, "freeze, ctl thaw: not frozen, or no longer; a copy may not be of one moment", "", []error{errNotFrozen}},
		{34, mountFailure, "mount, freshness check: the vault is not as the last mount here left it", "", []error{errNotFresh}},
		{127, mountFailure, "freeze: COMMAND was not found or cannot be started", "", []error{errNoCommand}},
		{24, mountFailure, "busy: something still uses the mount, the address or the audit log", "", []error{errBusy, syscall.EBUSY,
			syscall.EADDRINUSE, audit.ErrInUse}},
		{26, mountFailure, "the audit log was changed", "compare it with a copy that was kept elsewhere", []error{audit.ErrBroken}},
		{25, mountFailure, "the key or alias exists, or a limit is reached", "kmsfs key list",
			[]error{keysource.ErrAlreadyExists, keysource.ErrConflict, keysource.ErrLimit}},
		{21, mountUsage, "permission denied", "", []error{iofs.ErrPermission}},
		{22, mountFailure, "input or output failed: no such file, no space, a read-only or failing disk", "",
			[]error{syscall.EIO, syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS, iofs.ErrNotExist, syscall.ENOTDIR,
				syscall.ENOTCONN, local.ErrNotDurable, vault.ErrReadOnly}},
		{1, mountFailure, "any other error", "", nil},
	}
}

// exitOf finds the row of err.
func exitOf(err error) exit {
	table := exitTable()
	if err == nil {
		return table[0]
	}
	for _, e := range table {
		for _, kind := range e.errs {
			if errors.Is(err, kind) {
				return e
			}
		}
	}
	return table[len(table)-1]
}

// exitText is the table for people, by code.
func exitText() string {
	var b strings.Builder
	for code := range 256 {
		for _, e := range exitTable() {
			if e.code == code {
				fmt.Fprintf(&b, "  %3d  %s\n", e.code, e.when)
			}
		}
	}
	return b.String()
}
