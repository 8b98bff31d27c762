package local

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"

	"kmsfs/keysource"
)

// scenario is an administrative change to crash in.
type scenario struct {
	name   string
	run    func(t *testing.T, s *Store) error
	master Master // what else opens the store afterwards
}

func scenarios() []scenario {
	return []scenario{
		{name: "CreateKey", run: func(t *testing.T, s *Store) error {
			_, err := s.CreateKey(t.Context(), keysource.CreateKeyInput{Description: "new"})
			return err
		}},
		{name: "RotateKeyOnDemand", run: func(t *testing.T, s *Store) error {
			_, err := s.RotateKeyOnDemand(t.Context(), DefaultAlias)
			return err
		}},
		{name: "CreateGrant", run: func(t *testing.T, s *Store) error {
			_, err := s.CreateGrant(t.Context(), DefaultAlias, keysource.Grant{GranteePrincipal: "x", Operations: []string{"Decrypt"}})
			return err
		}},
		{name: "automatic rotation", run: func(t *testing.T, s *Store) error {
			clock := new(testClock)
			clock.advance(days(DefaultRotationPeriod + 1))
			s.cfg.Clock = clock
			defer func() { s.cfg.Clock = keysource.SystemClock{} }()
			return s.update(t.Context(), "settle", func(*snapshot) error { return errNoChange })
		}},
		{name: "ChangeMasterKey to passphrase", run: func(t *testing.T, s *Store) error {
			return s.ChangeMasterKey(t.Context(), Master{Passphrase: says("new"), Argon2: cheapArgon2()})
		}, master: Master{Passphrase: says("new")}},
		{name: "ChangeMasterKey to key file", run: func(t *testing.T, s *Store) error {
			return s.ChangeMasterKey(t.Context(), Master{KeyFile: "/other.key"})
		}, master: Master{KeyFile: "/other.key"}},
	}
}

// state is what matters of a store: its CMKs and all of their key material and grants.
func state(t *testing.T, s *Store) []string {
	t.Helper()
	var all []string
	keys, err := s.ListKeys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range keys {
		rotations, err := s.ListKeyRotations(t.Context(), keysource.KeyRef(k.KeyID))
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rotations {
			all = append(all, k.ARN+" "+r.KeyMaterialID)
		}
		info, err := s.Key(t.Context(), keysource.KeyRef(k.KeyID))
		if err != nil {
			t.Fatal(err)
		}
		for _, g := range info.Grants {
			all = append(all, k.ARN+" "+g.ID)
		}
	}
	return all
}

// prepared is a disk with a store on it, the store open, and a data key that must open for ever.
func prepared(t *testing.T) (*memFS, *Store, keysource.DataKey) {
	t.Helper()
	disk := newMemFS()
	s := create(t, Config{Dir: "/v/keys", fsys: disk})
	k, err := s.GenerateDataKey(t.Context(), keysource.GenerateDataKeyInput{KeyID: DefaultAlias})
	if err != nil {
		t.Fatal(err)
	}
	return disk, s, k
}

// mustOpen opens the store on disk with one of the masters and checks that it opens k.
func mustOpen(t *testing.T, disk *memFS, k keysource.DataKey, masters ...Master) *Store {
	t.Helper()
	var errs []error
	for _, m := range masters {
		s, err := Open(t.Context(), Config{Dir: "/v/keys", fsys: disk, Master: m})
		if err != nil {
			errs = append(errs, err)
			continue
		}
		t.Cleanup(func() { _ = s.Close() })
		r, err := s.Decrypt(t.Context(), keysource.DecryptInput{CiphertextBlob: k.CiphertextBlob})
		if err != nil || !r.Plaintext.Equal(k.Plaintext) {
			t.Fatalf("key material was lost: %v", err)
		}
		return s
	}
	t.Fatalf("the store does not open: %v", errors.Join(errs...))
	return nil
}

// TestCrashInChange cuts the power before every call that a change makes to the disk, and loses any subset of what was
// not durable. The store must then be the old or the new one, and the new one where the change was confirmed.
func TestCrashInChange(t *testing.T) {
	const losses = 12
	for _, sc := range scenarios() {
		t.Run(sc.name, func(t *testing.T) {
			for at := 1; ; at++ {
				disk, s, k := prepared(t)
				before := state(t, s)
				disk.mu.Lock()
				disk.crashAt, disk.calls = at, 0
				disk.mu.Unlock()
				err := sc.run(t, s)
				after := state(t, s)
				for seed := range uint64(losses) {
					got := mustOpen(t, disk.crash(rand.New(rand.NewPCG(uint64(at), seed))), k, Master{}, sc.master)
					now := state(t, got)
					if err == nil && !slices.Equal(now, after) {
						t.Fatalf("call %d, loss %d: a confirmed change was lost", at, seed)
					}
					if !slices.Equal(now, before) && len(now) != len(before)+1 {
						t.Fatalf("call %d, loss %d: got %d key materials and grants from %d", at, seed, len(now), len(before))
					}
					if err != nil && seed == 0 {
						if err := sc.run(t, got); err != nil {
							t.Fatalf("call %d: the change cannot be made after the crash: %v", at, err)
						}
					}
				}
				if err == nil {
					if at < 10 {
						t.Fatalf("only %d calls to the disk: the crashes missed", at)
					}
					return
				}
				if !slices.Equal(after, before) {
					t.Fatalf("call %d: a failed change is in use", at)
				}
			}
		})
	}
}

// TestCrashInCreate cuts the power before every call of Create.
func TestCrashInCreate(t *testing.T) {
	for _, m := range []Master{{}, {Passphrase: says("p"), Argon2: cheapArgon2()}} {
		for at := 1; ; at++ {
			disk := newMemFS()
			disk.crashAt = at
			s, createErr := Create(t.Context(), Config{Dir: "/v/keys", fsys: disk, Master: m})
			for seed := range uint64(12) {
				after := disk.crash(rand.New(rand.NewPCG(uint64(at), seed)))
				cfg := Config{Dir: "/v/keys", fsys: after, Master: m}
				got, err := Open(t.Context(), cfg)
				switch {
				case errors.Is(err, fs.ErrNotExist) && createErr != nil:
					if got, err = Create(t.Context(), cfg); err != nil {
						t.Fatalf("call %d, loss %d: cannot create after the crash: %v", at, seed, err)
					}
				case err != nil:
					t.Fatalf("call %d, loss %d: %v", at, seed, err)
				}
				if createErr == nil && !slices.Equal(state(t, s), state(t, got)) {
					t.Fatalf("loss %d: a confirmed store was lost", seed)
				}
			}
			if createErr == nil {
				break
			}
		}
	}
}

// TestFailInChange fails every call to the disk, one at a time, with and without effect. The store goes on with the old
// or the new state, loses nothing, and the change can be made again.
func TestFailInChange(t *testing.T) {
	for _, sc := range scenarios() {
		for _, late := range []bool{false, true} {
			for _, failure := range []error{syscall.EIO, syscall.ENOSPC} {
				for at := 1; ; at++ {
					disk, s, k := prepared(t)
					before := state(t, s)
					disk.mu.Lock()
					disk.failAt, disk.failErr, disk.late, disk.calls = at, failure, late, 0
					disk.mu.Unlock()
					err := sc.run(t, s)
					if err != nil && !errors.Is(err, failure) {
						t.Fatalf("%s, call %d: got %v, want %v", sc.name, at, err, failure)
					}
					if err != nil && !slices.Equal(before, state(t, s)) {
						t.Fatalf("%s, call %d: a failed change is in use", sc.name, at)
					}
					done := disk.calls < at
					mustOpen(t, disk, k, Master{}, sc.master)
					if err := sc.run(t, s); err != nil {
						t.Fatalf("%s, call %d: the change cannot be made again: %v", sc.name, at, err)
					}
					crashed := disk.crash(rand.New(rand.NewPCG(uint64(at), 0)))
					got := mustOpen(t, crashed, k, Master{}, sc.master)
					if !slices.Equal(state(t, got), state(t, s)) {
						t.Fatalf("%s, call %d: a confirmed change was lost", sc.name, at)
					}
					if done {
						break
					}
				}
			}
		}
	}
}

// TestWriteGoesWrong has the disk store something else than was written, without an error. That must not replace the
// good file.
func TestWriteGoesWrong(t *testing.T) {
	for _, sc := range scenarios() {
		disk, s, k := prepared(t)
		before := state(t, s)
		disk.mu.Lock()
		disk.corrupt = true
		disk.mu.Unlock()
		if err := sc.run(t, s); err == nil {
			t.Errorf("%s: succeeded", sc.name)
		}
		if got := mustOpen(t, disk, k, Master{}); !slices.Equal(state(t, got), before) {
			t.Errorf("%s: the store changed", sc.name)
		}
	}
}

// TestReaderMakesDurable has a writer die between its rename and its fsync of the directory. A reader that then uses
// the new key material must have made it durable first.
func TestReaderMakesDurable(t *testing.T) {
	for _, how := range []string{"open", "reload"} {
		t.Run(how, func(t *testing.T) {
			disk, writer, _ := prepared(t)
			reader := mustReader(t, disk)
			// The last call of a rotation is the fsync of the directory.
			count, s, _ := prepared(t)
			count.calls = 0
			if _, err := s.RotateKeyOnDemand(t.Context(), DefaultAlias); err != nil {
				t.Fatal(err)
			}
			disk.mu.Lock()
			disk.failAt, disk.failErr, disk.calls = count.calls, syscall.EIO, 0
			disk.mu.Unlock()
			if _, err := writer.RotateKeyOnDemand(t.Context(), DefaultAlias); !errors.Is(err, ErrNotDurable) {
				t.Fatalf("got %v, want ErrNotDurable", err)
			}
			if how == "open" {
				reader = mustReader(t, disk)
			}
			k, err := reader.GenerateDataKey(t.Context(), keysource.GenerateDataKeyInput{KeyID: DefaultAlias})
			if err != nil {
				t.Fatal(err)
			}
			if len(state(t, reader)) != 2 {
				t.Fatal("the reader did not see the rotation, so that this shows nothing")
			}
			for seed := range uint64(20) {
				mustOpen(t, disk.crash(rand.New(rand.NewPCG(1, seed))), k, Master{})
			}
		})
	}
}

// mustReader opens the store on disk so that it looks at the file at every call.
func mustReader(t *testing.T, disk *memFS) *Store {
	t.Helper()
	s, err := Open(t.Context(), Config{Dir: "/v/keys", fsys: disk, CheckInterval: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}
