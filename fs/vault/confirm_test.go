package vault_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kmsfs/fs/vault"
	"kmsfs/keysource"
)

// testClock is a clock that tests move.
type testClock struct{ ahead atomic.Int64 }

var testStart = time.Now()

func (c *testClock) Now() time.Time       { return testStart.Add(time.Duration(c.ahead.Load())) }
func (c *testClock) pass(d time.Duration) { c.ahead.Add(int64(d)) }

// strictKeys is a keysource that refuses with an error while it has one, and counts calls of Decrypt.
type strictKeys struct {
	memoryKeys
	refusal  atomic.Pointer[error]
	decrypts atomic.Int64
	entered  chan struct{} // if not nil, told of each call of Decrypt, which then waits for leave
	leave    chan struct{}
}

func (k *strictKeys) deny(err error) {
	if err == nil {
		k.refusal.Store(nil)
		return
	}
	k.refusal.Store(&err)
}

func (k *strictKeys) refused() error {
	if err := k.refusal.Load(); err != nil {
		return *err
	}
	return nil
}

func (k *strictKeys) Decrypt(ctx context.Context, in keysource.DecryptInput) (keysource.DecryptResult, error) {
	k.decrypts.Add(1)
	if k.entered != nil {
		k.entered <- struct{}{}
		<-k.leave
	}
	if err := k.refused(); err != nil {
		return keysource.DecryptResult{}, err
	}
	return k.memoryKeys.Decrypt(ctx, in)
}

func (k *strictKeys) GenerateDataKey(ctx context.Context, in keysource.GenerateDataKeyInput) (keysource.DataKey, error) {
	if err := k.refused(); err != nil {
		return keysource.DataKey{}, err
	}
	return k.memoryKeys.GenerateDataKey(ctx, in)
}

const confirmAge = time.Minute

// newConfirmed makes a vault whose open files have their keys confirmed each minute of clock.
func newConfirmed(t testing.TB, o vault.Options) (*vault.Vault, place, *strictKeys, *testClock) {
	t.Helper()
	at, _ := inMemory()
	ks, clock := &strictKeys{}, &testClock{}
	o.Now, o.KeyMaxAge = clock.Now, confirmAge
	if o.JournalFor == 0 {
		o.JournalFor = time.Hour // tests say when
	}
	return newVault(t, at, ks, o), at, ks, clock
}

// stays checks that content is what n holds.
func stays(t *testing.T, v *vault.Vault, n *vault.Node, want []byte) {
	t.Helper()
	b := make([]byte, len(want)+1)
	got, err := v.Read(ctx, n, b, 0)
	if err != nil || !bytes.Equal(b[:got], want) {
		t.Fatalf("read %d bytes of %d, the same: %v, %v", got, len(want), bytes.Equal(b[:got], want), err)
	}
}

// opensWith holds that the file has that content where the vault, which is closed, is opened anew.
func opensWith(t *testing.T, at place, ks keysource.Keysource, want []byte) {
	t.Helper()
	v := openVault(t, at, ks, vault.Options{})
	n, err := find(v, "file")
	if err != nil {
		t.Fatal(err)
	}
	stays(t, v, n, want)
	v.Forget(n, 1)
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
}

// noted returns bytes that tell chunks apart.
func noted(n int, salt byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i/4096) ^ byte(i) ^ salt
	}
	return b
}

// TestConfirm: an open file whose CMK is refused is read and written until the age, refuses both after it, and works on with all
// its data when it is permitted again; small and large, clean, dirty and with what stands in the journal only.
func TestConfirm(t *testing.T) {
	for _, size := range []int{1, 3000, 5000, 600_000} {
		for _, refusal := range []error{keysource.ErrDenied, keysource.ErrDisabled, keysource.ErrInvalidState, keysource.ErrNotFound, keysource.ErrUnavailable} {
			for _, state := range []string{"clean", "dirty", "pending"} {
				for _, sharing := range []vault.Sharing{vault.Exclusive, vault.Shared} {
					t.Run(fmt.Sprint(size, refusal, state, sharing), func(t *testing.T) {
						testConfirm(t, size, refusal, state, sharing)
					})
				}
			}
		}
	}
}

func testConfirm(t *testing.T, size int, refusal error, state string, sharing vault.Sharing) {
	v, at, ks, clock := newConfirmed(t, vault.Options{Sharing: sharing})
	var told atomic.Int64
	n, _, err := v.Create(v.Root(), "file", 0o644, who)
	if err != nil {
		t.Fatal(err)
	}
	v.OnRefused(func(of *vault.Node) {
		if of == n {
			told.Add(1)
		}
	})
	want := noted(size, 1)
	write := func(p []byte, off int) error {
		_, err := v.Write(ctx, n, p, int64(off), vault.KeepPrivileges)
		return err
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(write(want, 0))
	if state != "dirty" {
		must(v.Flush())
	}
	if state == "pending" {
		must(write([]byte("!"), size/2))
		want[size/2] = '!'
	}
	ks.deny(refusal)
	clock.pass(confirmAge / 2)
	stays(t, v, n, want)
	must(write([]byte("?"), size/3))
	want[size/3] = '?'
	if state == "clean" {
		must(v.Flush())
	}
	clock.pass(confirmAge)
	refused := func() {
		t.Helper()
		b := bytes.Repeat([]byte{0xa5}, size)
		if got, err := v.Read(ctx, n, b, 0); !errors.Is(err, refusal) || got != 0 || !bytes.Equal(b, bytes.Repeat([]byte{0xa5}, size)) {
			t.Fatalf("read %d bytes, %v", got, err)
		}
		if err := write([]byte("x"), 0); !errors.Is(err, refusal) {
			t.Fatalf("write: %v", err)
		}
		if err := v.Truncate(ctx, n, int64(size)+1, vault.KeepPrivileges); !errors.Is(err, refusal) {
			t.Fatalf("truncate: %v", err)
		}
		if err := v.Allocate(ctx, n, 3, 0, 1, vault.KeepPrivileges); !errors.Is(err, refusal) {
			t.Fatalf("punch: %v", err)
		}
		if st, err := v.Attr(n); err != nil || st.Size != int64(size) {
			t.Fatalf("size %d, %v", st.Size, err)
		}
	}
	refused()
	must(v.Fsync(n, vault.SyncAll)) // what was accepted
	refused()
	if held := vault.HoldsKey(n); state == "clean" && held {
		t.Error("the key of a file with nothing to complete is still in memory")
	}
	must(v.Flush())
	if vault.HoldsKey(n) {
		t.Error("the key is still in memory")
	}
	refused()
	if told.Load() != 1 {
		t.Errorf("told %d times of the refusal", told.Load())
	}
	ks.deny(nil)
	stays(t, v, n, want)
	must(write([]byte("#"), size-1))
	want[size-1] = '#'
	stays(t, v, n, want)
	v.Forget(n, 1)
	must(v.Close())
	v = openVault(t, at, ks, vault.Options{})
	n, _, err = v.Lookup(v.Root(), "file")
	must(err)
	stays(t, v, n, want)
	v.Forget(n, 1)
	must(v.Close())
}

// TestConfirmLast: what was accepted is durable though the file is refused from then on until the end.
func TestConfirmLast(t *testing.T) {
	for _, size := range []int{100, 5000, 600_000} {
		v, at, ks, clock := newConfirmed(t, vault.Options{})
		n, _, err := v.Create(v.Root(), "file", 0o644, who)
		if err != nil {
			t.Fatal(err)
		}
		want := noted(size, 1)
		for _, p := range [][]byte{want, noted(size, 2)} { // the second goes through the journal
			if _, err := v.Write(ctx, n, p, 0, vault.KeepPrivileges); err != nil {
				t.Fatal(err)
			}
			want = p
		}
		ks.deny(keysource.ErrDisabled)
		clock.pass(2 * confirmAge)
		if _, err := v.Read(ctx, n, make([]byte, 1), 0); !errors.Is(err, keysource.ErrDisabled) {
			t.Fatalf("read: %v", err)
		}
		v.Forget(n, 1)
		if err := v.Close(); err != nil {
			t.Fatal(err)
		}
		ks.deny(nil)
		opensWith(t, at, ks, want)
	}
}

// TestConfirmSettles: a file that waits to be settled keeps its key for that, though it is refused.
func TestConfirmSettles(t *testing.T) {
	v, _, ks, clock := newConfirmed(t, vault.Options{})
	n, _, err := v.Create(v.Root(), "file", 0o644, who)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Write(ctx, n, noted(600_000, 1), 0, vault.KeepPrivileges); err != nil {
		t.Fatal(err)
	}
	ks.deny(keysource.ErrDenied)
	clock.pass(2 * confirmAge)
	if _, err := v.Read(ctx, n, make([]byte, 1), 0); !errors.Is(err, keysource.ErrDenied) {
		t.Fatalf("read: %v", err)
	}
	if !vault.HoldsKey(n) {
		t.Error("there is no key to settle with")
	}
	if err := v.Flush(); err != nil {
		t.Fatal(err)
	}
	if vault.HoldsKey(n) {
		t.Error("the key is still in memory")
	}
	v.Forget(n, 1)
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestConfirmEmptied: a file that was emptied and is refused gives its key up, and gets a new one when it is written again;
// one that is refused can be emptied, as one that is not open can.
func TestConfirmEmptied(t *testing.T) {
	for _, when := range []string{"before", "after"} {
		t.Run(when, func(t *testing.T) {
			v, at, ks, clock := newConfirmed(t, vault.Options{})
			n, _, err := v.Create(v.Root(), "file", 0o644, who)
			if err != nil {
				t.Fatal(err)
			}
			empty := func() {
				t.Helper()
				if err := v.Truncate(ctx, n, 0, vault.KeepPrivileges); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := v.Write(ctx, n, noted(9000, 1), 0, vault.KeepPrivileges); err != nil {
				t.Fatal(err)
			}
			if when == "before" {
				empty()
			}
			if err := v.Flush(); err != nil {
				t.Fatal(err)
			}
			ks.deny(keysource.ErrDenied)
			clock.pass(2 * confirmAge)
			if _, err := v.Write(ctx, n, []byte("x"), 0, vault.KeepPrivileges); !errors.Is(err, keysource.ErrDenied) {
				t.Fatalf("write: %v", err)
			}
			empty()
			stays(t, v, n, nil)
			ks.deny(nil)
			want := noted(7000, 3)
			if _, err := v.Write(ctx, n, want, 0, vault.KeepPrivileges); err != nil {
				t.Fatal(err)
			}
			stays(t, v, n, want)
			v.Forget(n, 1)
			if err := v.Close(); err != nil {
				t.Fatal(err)
			}
			opensWith(t, at, ks, want)
		})
	}
}

// TestConfirmOnce: all who use a file when its key is due make one call, none before, and do not hold up others' files nor
// its attributes meanwhile.
func TestConfirmOnce(t *testing.T) {
	v, _, ks, clock := newConfirmed(t, vault.Options{})
	n, _, err := v.Create(v.Root(), "file", 0o644, who)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Write(ctx, n, noted(9000, 1), 0, vault.KeepPrivileges); err != nil {
		t.Fatal(err)
	}
	opening := ks.decrypts.Load() // of the volume key
	for range 100 {
		clock.pass(confirmAge / 200)
		stays(t, v, n, noted(9000, 1))
	}
	if c := ks.decrypts.Load() - opening; c != 0 {
		t.Errorf("%d calls before the age", c)
	}
	clock.pass(confirmAge)
	ks.entered, ks.leave = make(chan struct{}, 100), make(chan struct{})
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			var err error
			if i%2 == 0 {
				_, err = v.Read(ctx, n, make([]byte, 9000), 0)
			} else {
				_, err = v.Write(ctx, n, noted(9000, 1), 0, vault.KeepPrivileges)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	<-ks.entered
	if _, err := v.Attr(n); err != nil {
		t.Error(err)
	}
	if err := v.Fsync(n, vault.SyncAll); err != nil {
		t.Error(err)
	}
	time.Sleep(50 * time.Millisecond) // the others have come to the same point
	close(ks.leave)
	wg.Wait()
	if c := ks.decrypts.Load() - opening; c != 1 {
		t.Errorf("%d calls for one confirmation", c)
	}
	v.Forget(n, 1)
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestConfirmPurge: after a purge the key of an open file is asked for again at once.
func TestConfirmPurge(t *testing.T) {
	v, _, ks, _ := newConfirmed(t, vault.Options{})
	n, _, err := v.Create(v.Root(), "file", 0o644, who)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Write(ctx, n, []byte("data"), 0, vault.KeepPrivileges); err != nil {
		t.Fatal(err)
	}
	ks.deny(keysource.ErrDisabled)
	stays(t, v, n, []byte("data"))
	v.Purge()
	if _, err := v.Read(ctx, n, make([]byte, 4), 0); !errors.Is(err, keysource.ErrDisabled) {
		t.Errorf("read: %v", err)
	}
	ks.deny(nil)
	stays(t, v, n, []byte("data"))
	before := ks.decrypts.Load()
	stays(t, v, n, []byte("data"))
	if c := ks.decrypts.Load() - before; c != 0 {
		t.Errorf("%d calls after it was confirmed", c)
	}
	v.Forget(n, 1)
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestConfirmLostRecord: a record that cannot be read says nothing of the CMK: the operation fails, and the key, which may
// be the only one there is, stays.
func TestConfirmLostRecord(t *testing.T) {
	v, _, ks, clock := newConfirmed(t, vault.Options{})
	n, _, err := v.Create(v.Root(), "file", 0o644, who)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Write(ctx, n, []byte("data"), 0, vault.KeepPrivileges); err != nil {
		t.Fatal(err)
	}
	ks.deny(keysource.ErrInvalidCiphertext)
	clock.pass(2 * confirmAge)
	if _, err := v.Read(ctx, n, make([]byte, 4), 0); !errors.Is(err, vault.ErrNoKey) {
		t.Errorf("read: %v", err)
	}
	if !vault.HoldsKey(n) {
		t.Error("the key was given up")
	}
	ks.deny(nil)
	stays(t, v, n, []byte("data"))
	v.Forget(n, 1)
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestConfirmCrowd: readers and writers of files small and large, and of one without a name, while the CMK comes and goes:
// each operation succeeds or is refused, what was read was written, and in the end all that was accepted is there.
func TestConfirmCrowd(t *testing.T) {
	v, at, ks, clock := newConfirmed(t, vault.Options{JournalFor: 5 * time.Millisecond, KeepEvery: 7 * time.Millisecond})
	sizes := []int{50, 3000, 40_000, 300_000}
	nodes := make([]*vault.Node, len(sizes))
	last := make([]byte, len(sizes))
	for i, size := range sizes {
		var err error
		if nodes[i], _, err = v.Create(v.Root(), fmt.Sprint(i), 0o644, who); err != nil {
			t.Fatal(err)
		}
		if _, err := v.Write(ctx, nodes[i], bytes.Repeat([]byte{0}, size), 0, vault.KeepPrivileges); err != nil {
			t.Fatal(err)
		}
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var good, bad atomic.Int64
	check := func(err error) bool {
		switch {
		case err == nil:
			good.Add(1)
			return true
		case errors.Is(err, keysource.ErrDisabled):
			bad.Add(1)
		default:
			t.Error(err)
		}
		return false
	}
	running := func() bool {
		select {
		case <-stop:
			return false
		default:
			return true
		}
	}
	for i, size := range sizes {
		wg.Go(func() {
			for c := byte(1); running(); c++ {
				if _, err := v.Write(ctx, nodes[i], bytes.Repeat([]byte{c}, size), 0, vault.KeepPrivileges); check(err) {
					last[i] = c
				}
			}
		})
		for range 2 {
			wg.Go(func() {
				b := make([]byte, size)
				for running() {
					n, err := v.Read(ctx, nodes[i], b, 0)
					if check(err) && (n != size || bytes.Count(b, b[:1]) != size) {
						t.Errorf("file %d: read %d bytes, a mix", i, n)
					}
				}
			})
		}
	}
	wg.Go(func() {
		for running() {
			ks.deny(keysource.ErrDisabled)
			clock.pass(2 * confirmAge)
			time.Sleep(15 * time.Millisecond)
			ks.deny(nil)
			clock.pass(2 * confirmAge)
			time.Sleep(10 * time.Millisecond)
		}
	})
	time.Sleep(1500 * time.Millisecond)
	close(stop)
	wg.Wait()
	ks.deny(nil)
	if good.Load() == 0 || bad.Load() == 0 {
		t.Errorf("%d operations done, %d refused", good.Load(), bad.Load())
	}
	for i, size := range sizes {
		stays(t, v, nodes[i], bytes.Repeat([]byte{last[i]}, size))
		v.Forget(nodes[i], 1)
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	v = openVault(t, at, ks, vault.Options{})
	for i, size := range sizes {
		n, _, err := v.Lookup(v.Root(), fmt.Sprint(i))
		if err != nil {
			t.Fatal(err)
		}
		stays(t, v, n, bytes.Repeat([]byte{last[i]}, size))
		v.Forget(n, 1)
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestConfirmGrace: while the keysource cannot be reached, the cache's grace decides over an open file as over a new one.
func TestConfirmGrace(t *testing.T) {
	at, _ := inMemory()
	ks := &strictKeys{}
	cache := keysource.NewCache(ks, keysource.CacheConfig{MaxAge: 50 * time.Millisecond, Grace: 1500 * time.Millisecond,
		GraceWait: 10 * time.Millisecond, RefusalAge: -1})
	defer cache.Close()
	v := newVault(t, at, cache, vault.Options{KeyMaxAge: 50 * time.Millisecond})
	n, _, err := v.Create(v.Root(), "file", 0o644, who)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Write(ctx, n, []byte(strings.Repeat("data", 2000)), 0, vault.KeepPrivileges); err != nil {
		t.Fatal(err)
	}
	before := ks.decrypts.Load()
	ks.deny(keysource.ErrUnavailable)
	time.Sleep(200 * time.Millisecond)
	stays(t, v, n, []byte(strings.Repeat("data", 2000)))
	if ks.decrypts.Load() == before {
		t.Error("nobody was asked")
	}
	time.Sleep(2 * time.Second)
	if _, err := v.Read(ctx, n, make([]byte, 4), 0); !errors.Is(err, keysource.ErrUnavailable) {
		t.Errorf("after the grace: %v", err)
	}
	ks.deny(nil)
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if _, err = v.Read(ctx, n, make([]byte, 4), 0); err == nil || time.Now().After(end) {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	stays(t, v, n, []byte(strings.Repeat("data", 2000)))
	v.Forget(n, 1)
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
}
