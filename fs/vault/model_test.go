package vault_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"kmsfs/fs/vault"
)

// long makes tests run for minutes: KMSFS_LONG=1.
func long(t testing.TB) bool { return os.Getenv("KMSFS_LONG") != "" }

// effort chooses how much is done: with -short (under the race detector), as usual, or with KMSFS_LONG.
func effort[T any](t testing.TB, short, usual, much T) T {
	switch {
	case long(t):
		return much
	case testing.Short():
		return short
	}
	return usual
}

// TestModel runs random operation lists on the vault and on byte slices.
func TestModel(t *testing.T) {
	for _, chunk := range []int{4096, 16384, 65536} {
		for _, where := range []string{"memfs", "disk"} {
			for _, mode := range []string{"tracked", "untracked", "small caches", "shared", "two hosts", "renew", "renew shared", "renew hosts", "renew small"} {
				t.Run(fmt.Sprintf("%d/%s/%s", chunk, where, mode), func(t *testing.T) {
					t.Parallel()
					steps, seeds := effort(t, 120, 400, 4000), effort(t, 1, 1, 20)
					for seed := range seeds {
						runModel(t, chunk, where, mode, steps, uint64(seed))
					}
				})
			}
		}
	}
}

func runModel(t *testing.T, chunk int, where, mode string, steps int, seed uint64) {
	at, _ := inMemory()
	if where == "disk" {
		at = onDisk(t)
	}
	ks := &memoryKeys{}
	makeVault(t, at, ks, chunk)
	o, hosts := vault.Options{}, 1
	switch mode {
	case "untracked":
		o.Opens = vault.Untracked
	case "renew small":
		o.OpenFiles, o.OpenDirs = 1, 1
	case "small caches":
		o.OpenFiles, o.OpenDirs = 1, 1
	case "shared", "renew shared":
		o.Sharing = vault.Shared
	case "two hosts", "renew hosts":
		o.Sharing = vault.Shared
		hosts = 2
	}
	e := &engine{chunk: int64(chunk), renew: strings.HasPrefix(mode, "renew")}
	e.remount = func() ([]*vault.Vault, error) {
		for _, v := range e.vaults {
			if err := v.Close(); err != nil {
				return nil, err
			}
		}
		var vv []*vault.Vault
		for range hosts {
			vv = append(vv, openVault(t, at, ks, o))
		}
		return vv, nil
	}
	e.vaults, _ = e.remount()
	r := rand.New(rand.NewPCG(seed, uint64(chunk)))
	list := make([]byte, steps*opSize)
	for i := range list {
		list[i] = byte(r.Uint32())
	}
	err := e.run(list)
	if err == nil {
		e.vaults, err = e.remount()
	}
	if err == nil {
		err = e.compareAll()
	}
	for _, v := range e.vaults {
		if e := v.Close(); err == nil {
			err = e
		}
	}
	if err != nil {
		t.Fatalf("seed %d: %v\nafter: %s", seed, err, strings.Join(e.steps[max(0, len(e.steps)-40):], "\n       "))
	}
}
