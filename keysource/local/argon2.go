package local

import (
	"fmt"

	"golang.org/x/crypto/argon2"
)

// Argon2 is the cost of argon2id, by which a passphrase becomes a master key.
type Argon2 struct {
	// MemoryKiB is the memory in KiB.
	MemoryKiB uint32
	// Time is the number of passes over it.
	Time uint32
	// Threads is the number of lanes.
	Threads uint8
}

// DefaultArgon2 is the second recommended choice of RFC 9106: 64 MiB, 3 passes, 4 lanes.
func DefaultArgon2() Argon2 { return Argon2{MemoryKiB: 64 << 10, Time: 3, Threads: 4} }

// Bounds of what a store file may ask for, so that a forged one cannot take all memory or hours.
const (
	maxArgon2MemoryKiB = 1 << 20 // 1 GiB
	maxArgon2Time      = 64
	maxArgon2Threads   = 64
	maxArgon2Work      = 8 << 20 // KiB times passes: some 10 s
)

// validate refuses parameters out of bounds.
func (a Argon2) validate() error {
	switch {
	case a.Threads < 1 || a.Threads > maxArgon2Threads,
		a.Time < 1 || a.Time > maxArgon2Time,
		a.MemoryKiB < 8*uint32(a.Threads) || a.MemoryKiB > maxArgon2MemoryKiB,
		uint64(a.MemoryKiB)*uint64(a.Time) > maxArgon2Work:
		return fmt.Errorf("argon2id parameters out of bounds: %d KiB, %d passes, %d lanes", a.MemoryKiB, a.Time, a.Threads)
	}
	return nil
}

// stretch makes a secret of 32 bytes from a passphrase.
func (a Argon2) stretch(passphrase, salt []byte) []byte {
	return argon2.IDKey(passphrase, salt, a.Time, a.MemoryKiB, a.Threads, secretSize)
}
