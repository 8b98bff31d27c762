package envelope

import (
	"crypto/subtle"
	"fmt"
	"strings"
)

const (
	saltSize       = 16
	targetOverhead = saltSize + TagSize
	targetB64Max   = 4095 // b64 of targetOverhead + TargetMax
)

// SealTarget seals a symlink's target, 1 to [TargetMax] bytes without NUL, to the
// target that is stored. salt must be random, or [VolumeKeys.ReverseSalt]. It fails with ErrNameTooLong or
// ErrInvalidName.
func (k *VolumeKeys) SealTarget(target string, salt *[16]byte) (string, error) {
	switch {
	case len(target) > TargetMax:
		return "", fmt.Errorf("target of %d bytes: %w", len(target), ErrNameTooLong)
	case target == "" || strings.IndexByte(target, 0) >= 0:
		return "", fmt.Errorf("target: %w", ErrInvalidName)
	}
	sealed := make([]byte, targetOverhead+len(target))
	text := sealed[targetOverhead:]
	copy(sealed, salt[:])
	copy(text, target)
	k.linkTag.sum(sealed[saltSize:targetOverhead], salt[:], text)
	k.linkStream.xorStream(text, sealed[:targetOverhead], nil, make([]byte, len(text)))
	return k.b64.EncodeToString(sealed), nil
}

// OpenTarget opens a stored target. It fails with ErrCorrupt for whatever
// SealTarget does not give.
func (k *VolumeKeys) OpenTarget(stored string) (string, error) {
	if len(stored) > targetB64Max {
		return "", corrupt("symlink target")
	}
	sealed := make([]byte, len(stored))
	n, ok := decode64(k.b64, sealed, stored)
	if !ok || n <= targetOverhead {
		return "", corrupt("symlink target")
	}
	salt, tag, text := sealed[:saltSize], sealed[saltSize:targetOverhead], sealed[targetOverhead:n]
	k.linkStream.xorStream(text, sealed[:targetOverhead], nil, make([]byte, len(text)))
	var want [TagSize]byte
	k.linkTag.sum(want[:], salt, text)
	if subtle.ConstantTimeCompare(want[:], tag) != 1 || !isZeroFree(text) {
		return "", corrupt("symlink target")
	}
	return string(text), nil
}

// PlainTargetSize returns the length of the plaintext target, as stat reports
// it, from the length of the stored one.
func PlainTargetSize(storedLen int64) int64 {
	return max(0, storedLen/4*3+storedLen%4*3/4-targetOverhead)
}

func isZeroFree(b []byte) bool { return strings.IndexByte(string(b), 0) < 0 }
