package local

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"kmsfs/keysource"
)

// A master key file is one line of text, so that it can be printed and typed in again: keyFilePrefix, then 64
// hexadecimal digits.
const (
	keyFilePrefix = "kmsfs-master-key-1:"
	keyFileSize   = len(keyFilePrefix) + 2*secretSize + 1
)

// readKeyFile reads the master key from the file at path, which must be ours alone. The caller wipes it.
func readKeyFile(fsys fileSystem, path string) ([]byte, error) {
	f, err := fsys.Open(path, followLinks)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, keysource.WithHint(fmt.Errorf("%w: %w", ErrMasterKey, err),
				"put the master key file back from a backup, or name it with its path")
		}
		return nil, fmt.Errorf("master key file: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("master key file: %w", err)
	}
	if err := checkKeyFile(path, info, fsys.UserID()); err != nil {
		return nil, err
	}
	text := make([]byte, keyFileSize+1)
	defer clear(text)
	n, err := io.ReadFull(f, text)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("master key file: %w", err)
	}
	key, ok := parseKeyFile(text[:n])
	if !ok {
		return nil, fmt.Errorf("%w: %s is not a master key file of kmsfs", ErrMasterKey, path)
	}
	return key, nil
}

// checkKeyFile refuses a file that others can read or change.
func checkKeyFile(path string, info fileInfo, uid int) error {
	switch {
	case !info.mode.IsRegular():
		return fmt.Errorf("%w: %s is not a regular file", ErrInsecure, path)
	case info.uid != uid && info.uid != 0:
		return keysource.WithHint(fmt.Errorf("%w: %s belongs to user %d", ErrInsecure, path, info.uid),
			fmt.Sprintf("chown %d %s", uid, path))
	case info.mode.Perm()&0o077 != 0:
		return keysource.WithHint(fmt.Errorf("%w: %s has mode %#o, others can read or change it", ErrInsecure, path,
			info.mode.Perm()), "chmod 600 "+path)
	}
	return nil
}

// parseKeyFile reads the text of a key file; the newline at its end may be missing.
func parseKeyFile(text []byte) ([]byte, bool) {
	if n := len(text); n > 0 && text[n-1] == '\n' {
		text = text[:n-1]
	}
	if len(text) != keyFileSize-1 || !strings.HasPrefix(string(text[:len(keyFilePrefix)]), keyFilePrefix) {
		return nil, false
	}
	key := make([]byte, secretSize)
	if _, err := hex.Decode(key, text[len(keyFilePrefix):]); err != nil {
		clear(key)
		return nil, false
	}
	return key, true
}

// ensureKeyFile reads the key file at path, made first where there is none. It is durable on return. The caller
// wipes the key.
func ensureKeyFile(fsys fileSystem, path string, rand io.Reader) ([]byte, error) {
	key, err := readKeyFile(fsys, path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	key = make([]byte, secretSize)
	if _, err := io.ReadFull(rand, key); err != nil {
		return nil, fmt.Errorf("random bytes: %w", err)
	}
	text := make([]byte, 0, keyFileSize)
	defer func() { clear(text[:cap(text)]) }()
	text = append(text, keyFilePrefix...)
	text = hex.AppendEncode(text, key)
	text = append(text, '\n')
	if err := writeDurable(fsys, path, text, createNew); err != nil {
		clear(key)
		return nil, fmt.Errorf("master key file: %w", err)
	}
	return key, nil
}
