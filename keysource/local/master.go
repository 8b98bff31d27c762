package local

import (
	"context"
	"fmt"
	"io"

	"kmsfs/keysource"
	"kmsfs/keysource/passphrase"
)

// lockStoreKey seals storeKey under a master key as m says; the key file is made where it is missing.
func lockStoreKey(ctx context.Context, cfg Config, m Master, storeID [16]byte, storeKey *[secretSize]byte) (masterLock, error) {
	var l masterLock
	if _, err := io.ReadFull(cfg.Rand, l.salt[:]); err != nil {
		return l, fmt.Errorf("random bytes: %w", err)
	}
	var secret []byte
	var err error
	if m.Passphrase != nil {
		l.kind, l.argon2 = masterPassphrase, m.Argon2
		secret, err = m.passphraseFrom(ctx, passphrase.New)
	} else {
		l.kind = masterKeyFile
		secret, err = ensureKeyFile(cfg.fsys, m.KeyFile, cfg.Rand)
	}
	if err != nil {
		return l, err
	}
	defer clear(secret)
	key := l.masterKey(secret)
	defer clear(key[:])
	sealOnce(&key, l.wrapped[:0], storeKey[:], l.aad(storeID))
	return l, ctx.Err()
}

// unlockStoreKey opens the store key with the master key.
func unlockStoreKey(ctx context.Context, cfg Config, h header) (*[secretSize]byte, error) {
	var secret []byte
	var err error
	if h.lock.kind == masterPassphrase {
		secret, err = cfg.Master.passphraseFrom(ctx, passphrase.Unlock)
	} else {
		secret, err = readKeyFile(cfg.fsys, cfg.Master.KeyFile)
	}
	if err != nil {
		return nil, err
	}
	defer clear(secret)
	key := h.lock.masterKey(secret)
	defer clear(key[:])
	storeKey := new([secretSize]byte)
	if _, err := openOnce(&key, storeKey[:0], h.lock.wrapped[:], h.lock.aad(h.storeID)); err != nil {
		what, hint := "the passphrase is wrong", "try again"
		if h.lock.kind == masterKeyFile {
			what, hint = "it is not the key of "+cfg.Master.KeyFile, "name the key file that belongs to this store"
		}
		return nil, keysource.WithHint(fmt.Errorf("%w: %s, or the header of the store is damaged", ErrMasterKey, what),
			hint)
	}
	return storeKey, nil
}

// masterKey is the key that seals the store key, from the passphrase or the content of the key file.
func (l masterLock) masterKey(secret []byte) [secretSize]byte {
	if l.kind == masterPassphrase {
		stretched := l.argon2.stretch(secret, l.salt[:])
		defer clear(stretched)
		return derive(contextPassphrase, stretched, l.salt[:])
	}
	return derive(contextKeyFile, secret, l.salt[:])
}

// aad is what the sealed store key is bound to: the bytes of the header that do not change from one generation to the
// next.
func (l masterLock) aad(storeID [16]byte) []byte {
	b := header{storeID: storeID, lock: l}.marshal()
	aad := append([]byte(fileMagic), b[offStoreID:offGeneration]...)
	return append(aad, b[offMaster:offWrapped]...)
}
