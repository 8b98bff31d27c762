package main

import (
	"errors"
	"fmt"
	iofs "io/fs"
	"syscall"

	"kmsfs/envelope"
	"kmsfs/fs/vault"
	"kmsfs/keysource"
	"kmsfs/keysource/local"
)

// explain names the vault in an error about it, and says what to do. The kinds of err stay.
func explain(err error, p mountPlan) error {
	v := quote(p.Vault)
	var why *keysource.Error
	store, url := "--key-store DIR", p.Keysource
	if url == "" {
		url = p.NewKeysource
	}
	u, e := keysource.ParseURL(url)
	if e == nil && u.Scheme == keysource.SchemeLocal {
		store = "--key-store " + quote(u.Path)
	}
	switch {
	case err == nil:
		return nil
	case e == nil && u.Scheme == keysource.SchemeAWSKMS && isRefusal(err):
		return hintf(err, "kmsfs doctor %s", quote(u.String()))
	case errors.Is(err, errNoKeyStore), errors.Is(err, local.ErrMasterKey), errors.Is(err, local.ErrDamaged):
		return err
	case errors.Is(err, vault.ErrLocked):
		for _, m := range mountsOf(p.Vault) {
			return hintf(faultf(errMounted, "the vault %s is mounted on %s", p.Vault, m.Mountpoint), "kmsfs umount %s",
				quote(m.Mountpoint))
		}
		return hintf(faultf(vault.ErrLocked, "the vault %s is in use by another mount", p.Vault),
			"unmount it there; several hosts at once need kmsfs mount --shared on each")
	case errors.Is(err, vault.ErrNotVault):
		if names, e := readSome(p.Vault); e == nil && len(names) == 0 {
			return hintf(faultf(vault.ErrNotVault, "%s is not a vault: it is empty", p.Vault), "kmsfs init %s", v)
		}
		return hintf(faultf(vault.ErrNotVault, "%s is not a vault: it has no %s/vault.json", p.Vault, envelope.ControlDir),
			"name the directory of a vault; kmsfs init makes one in an empty directory")
	case errors.Is(err, vault.ErrNotEmpty):
		if holdsVault(p.Vault) {
			return hintf(faultf(vault.ErrNotEmpty, "%s is a vault already", p.Vault), "kmsfs mount %s MOUNTPOINT", v)
		}
		return hintf(faultf(vault.ErrNotEmpty, "%s is not empty", p.Vault),
			"name an empty directory: mount a new vault, then copy the files in")
	case errors.Is(err, keysource.ErrDisabled) && errors.As(err, &why) && why.KeyID != "":
		return hintf(err, "kmsfs key enable %s %s", store, why.KeyID)
	case errors.Is(err, keysource.ErrInvalidState) && errors.As(err, &why) && why.KeyID != "":
		return hintf(err, "kmsfs key describe %s %s; key import or key cancel-deletion may mend it", store, why.KeyID)
	case errors.Is(err, keysource.ErrDisabled), errors.Is(err, keysource.ErrInvalidState):
		return hintf(err, "kmsfs key list %s", store)
	case errors.Is(err, envelope.ErrWrongKey), errors.Is(err, keysource.ErrInvalidCiphertext), errors.Is(err, keysource.ErrIncorrectKey):
		return hintf(err, "--key-store DIR names the key store that the vault was made with; kmsfs info %s shows its CMK", v)
	case errors.Is(err, keysource.ErrNotFound):
		return hintf(err, "kmsfs key list %s shows what this key store has; --key-store DIR names another", store)
	case errors.Is(err, iofs.ErrNotExist) && !errors.Is(err, envelope.ErrCorrupt) && !errors.Is(err, vault.ErrCorrupt):
		return hintf(faultf(syscall.ENOENT, "the vault %s does not exist", p.Vault), "kmsfs init %s", v)
	case errors.Is(err, syscall.ENOTDIR):
		return hintf(faultf(vault.ErrNotVault, "the vault %s is not a directory", p.Vault), "name the directory of a vault")
	case errors.Is(err, syscall.EROFS) && p.Mountpoint != "":
		return hintf(faultf(syscall.EROFS, "the vault %s is on a read-only file system", p.Vault), "kmsfs mount --read-only %s %s", v, quote(p.Mountpoint))
	case errors.Is(err, syscall.EROFS):
		return hintf(faultf(syscall.EROFS, "the vault %s is on a read-only file system", p.Vault), "copy it to where it can be written to")
	case errors.Is(err, iofs.ErrPermission) && p.Mountpoint != "" && !p.ReadOnly:
		return hintf(faultf(iofs.ErrPermission, "the vault %s: %w", p.Vault, err), "ls -ld %s; mount --read-only needs no more than to read it", v)
	case errors.Is(err, iofs.ErrPermission):
		return hintf(faultf(iofs.ErrPermission, "the vault %s: %w", p.Vault, err), "ls -ld %s", v)
	}
	return fmt.Errorf("vault %s: %w", p.Vault, err)
}

// isRefusal tells that a keysource answered and would not.
func isRefusal(err error) bool {
	for _, kind := range []error{keysource.ErrDenied, keysource.ErrDisabled, keysource.ErrInvalidState, keysource.ErrNotFound} {
		if errors.Is(err, kind) && !errors.Is(err, envelope.ErrWrongKey) {
			return true
		}
	}
	return false
}

// mountsOf are the mounts of a vault that this process sees.
func mountsOf(vaultDir string) []mountEntry {
	all, err := kmsfsMounts()
	if err != nil {
		return nil
	}
	var out []mountEntry
	for _, m := range all {
		if m.Vault == vaultDir {
			out = append(out, m)
		}
	}
	return out
}
