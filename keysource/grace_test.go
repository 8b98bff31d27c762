package keysource

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// moody is a Decrypt that answers the blob, or fails with what is set, after a wait.
type moody struct {
	fake
	calls atomic.Int64
	err   atomic.Pointer[error]
	wait  atomic.Int64
}

func newMoody() *moody {
	m := &moody{}
	m.decrypt = func(ctx context.Context, in DecryptInput) (DecryptResult, error) {
		m.calls.Add(1)
		if err := (SystemClock{}).Sleep(ctx, time.Duration(m.wait.Load())); err != nil {
			return DecryptResult{}, err
		}
		if err := m.err.Load(); err != nil && *err != nil {
			return DecryptResult{}, *err
		}
		return DecryptResult{Plaintext: NewPlaintextKey(in.CiphertextBlob), KeyID: fakeARN}, nil
	}
	return m
}

func (m *moody) set(err error) { m.err.Store(&err) }

func TestCacheGrace(t *testing.T) {
	down := NewError("Decrypt", "", CodeKeyUnavailable, "down")
	for _, test := range []struct {
		name  string
		err   error
		after time.Duration // past the age
		want  error         // nil: the old key serves
	}{
		{"out of reach", down, time.Second, nil},
		{"throttled", NewError("Decrypt", "", CodeThrottling, ""), time.Second, nil},
		{"no answer in time", context.DeadlineExceeded, time.Second, nil},
		{"out of reach for too long", down, 20 * time.Minute, ErrUnavailable},
		{"denied", NewError("Decrypt", "", CodeAccessDenied, ""), time.Second, ErrDenied},
		{"disabled", NewError("Decrypt", "", CodeDisabled, ""), time.Second, ErrDisabled},
		{"damaged", NewError("Decrypt", "", CodeInvalidCiphertext, ""), time.Second, ErrInvalidCiphertext},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMoody()
				c := NewCache(m, CacheConfig{MaxAge: time.Minute, MaxIdle: time.Hour})
				defer c.Close()
				get(t, c, "a")
				m.set(test.err)
				time.Sleep(time.Minute + test.after)
				for range 2 { // a refusal must stay one though the key is still there
					r, err := c.Decrypt(t.Context(), DecryptInput{CiphertextBlob: []byte("a")})
					if !errors.Is(err, test.want) || err == nil && string(r.Plaintext.Bytes()) != "a" {
						t.Errorf("got %q, %v, want %v", r.Plaintext.Bytes(), err, test.want)
					}
				}
				if test.want == nil {
					if n := m.calls.Load(); n != 2 {
						t.Errorf("%d calls below: the second caller need not ask", n)
					}
					m.set(nil)
					time.Sleep(downFor)
					get(t, c, "a")
					if n := m.calls.Load(); n != 3 {
						t.Errorf("%d calls below after it came back, want 3", n)
					}
				}
			})
		})
	}
}

// TestCacheGraceEndsForCMK shows that a refusal of the CMK ends the grace of all keys under it, when the keysource is out of
// reach after it.
func TestCacheGraceEndsForCMK(t *testing.T) {
	const otherARN = fakeARN + "0"
	refusal := func(code, id string) error { return NewError("Decrypt", id, code, "") }
	for _, test := range []struct {
		name  string
		blob  string // of the refused call
		ref   KeyRef // the refused call's
		refs  KeyRef // the other calls'
		err   error
		later time.Duration // b is asked for so long after a, which is past its age when the refusal comes
		want  error         // of b when it is past its age too
	}{
		{"disabled", "a", "", "", refusal(CodeDisabled, ""), 0, ErrUnavailable},
		{"pending deletion", "a", "", "", refusal(CodeInvalidState, ""), 0, ErrUnavailable},
		{"not found", "a", "", "", refusal(CodeNotFound, ""), 0, ErrUnavailable},
		{"denied", "a", "", "", refusal(CodeAccessDenied, ""), 0, ErrUnavailable},
		{"damaged says nothing of the CMK", "a", "", "", refusal(CodeInvalidCiphertext, ""), 0, nil},
		{"while b is fresh", "a", fakeARN, "", refusal(CodeDisabled, ""), 30 * time.Second, ErrUnavailable},
		{"of a key that is not kept, by ARN", "x", fakeARN, "", refusal(CodeDisabled, ""), 0, ErrUnavailable},
		{"of a key that is not kept, by alias", "x", "alias/x", "alias/x", refusal(CodeDisabled, ""), 0, ErrUnavailable},
		{"of a key that is not kept, named by the error", "x", "", "", refusal(CodeDisabled, fakeARN), 0, ErrUnavailable},
		{"of another CMK", "x", otherARN, "", refusal(CodeDisabled, otherARN), 0, nil},
		{"of another CMK by alias", "x", "alias/y", "alias/x", refusal(CodeDisabled, ""), 0, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMoody()
				c := NewCache(m, CacheConfig{MaxAge: time.Minute, MaxIdle: time.Hour})
				defer c.Close()
				ask := func(blob string, ref KeyRef) error {
					r, err := c.Decrypt(t.Context(), DecryptInput{CiphertextBlob: []byte(blob), KeyID: ref})
					r.Plaintext.Wipe()
					return err
				}
				if err := ask("a", test.refs); err != nil {
					t.Fatal(err)
				}
				time.Sleep(test.later)
				if err := ask("b", test.refs); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Minute + time.Second - test.later)
				m.set(test.err)
				if err := ask(test.blob, test.ref); !errors.Is(err, KindOf(test.err.(*Error).Code)) {
					t.Fatal(err)
				}
				if test.later > 0 {
					if err := ask("b", test.refs); err != nil {
						t.Errorf("a fresh key: %v", err)
					}
				}
				m.set(NewError("Decrypt", "", CodeKeyUnavailable, "down"))
				time.Sleep(10*time.Second + test.later) // the refusal is not remembered any more
				if err := ask("b", test.refs); !errors.Is(err, test.want) {
					t.Errorf("got %v, want %v", err, test.want)
				}
				m.set(nil)
				if err := ask("b", test.refs); err != nil {
					t.Errorf("after it came back: %v", err)
				}
			})
		})
	}
}

// ungenerous is a moody whose CMK is disabled for new keys.
type ungenerous struct{ *moody }

func (ungenerous) GenerateDataKey(context.Context, GenerateDataKeyInput) (DataKey, error) {
	return DataKey{}, NewError("GenerateDataKey", "", CodeDisabled, "")
}

// TestCacheGraceEndsForCMKOfGenerate is that for a refusal of GenerateDataKey.
func TestCacheGraceEndsForCMKOfGenerate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMoody()
		c := NewCache(ungenerous{m}, CacheConfig{MaxAge: time.Minute, MaxIdle: time.Hour})
		defer c.Close()
		get(t, c, "a")
		time.Sleep(time.Minute)
		if _, err := c.GenerateDataKey(t.Context(), GenerateDataKeyInput{KeyID: fakeARN}); !errors.Is(err, ErrDisabled) {
			t.Fatal(err)
		}
		m.set(NewError("Decrypt", "", CodeKeyUnavailable, "down"))
		if _, err := c.Decrypt(t.Context(), DecryptInput{CiphertextBlob: []byte("a")}); !errors.Is(err, ErrUnavailable) {
			t.Errorf("got %v", err)
		}
	})
}

// TestCacheGraceOfHang shows that a keysource which hangs delays one caller every few seconds, for GraceWait.
func TestCacheGraceOfHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMoody()
		c := NewCache(m, CacheConfig{MaxAge: time.Minute, MaxIdle: time.Hour, GraceWait: 2 * time.Second})
		defer c.Close()
		get(t, c, "a")
		get(t, c, "b")
		m.wait.Store(int64(10 * time.Second))
		time.Sleep(time.Minute)
		for _, step := range []struct {
			blob string
			took time.Duration
		}{{"a", 2 * time.Second}, {"b", 0}, {"a", 0}} {
			start := time.Now()
			get(t, c, step.blob)
			if took := time.Since(start); took != step.took {
				t.Errorf("%s took %v, want %v", step.blob, took, step.took)
			}
		}
		time.Sleep(10 * time.Second) // the call that was left brings the key
		if n := m.calls.Load(); n != 3 {
			t.Errorf("%d calls below, want 3", n)
		}
		start := time.Now()
		get(t, c, "a")
		if time.Since(start) != 0 || m.calls.Load() != 3 {
			t.Errorf("took %v and %d calls: the answer that came late was not kept", time.Since(start), m.calls.Load())
		}
	})
}

func TestCacheIdleKeysStayInOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMoody()
		c := NewCache(m, CacheConfig{MaxAge: time.Minute, MaxIdle: 10 * time.Second})
		defer c.Close()
		get(t, c, "a")
		m.set(ErrUnavailable)
		for range 10 { // somebody asks for another key now and then, and so it is known that there is an outage
			if _, err := c.Decrypt(t.Context(), DecryptInput{CiphertextBlob: []byte("b")}); !errors.Is(err, ErrUnavailable) {
				t.Fatal(err)
			}
			time.Sleep(4 * time.Second)
		}
		get(t, c, "a")
	})
}

func TestCacheUses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMoody()
		c := NewCache(m, CacheConfig{MaxUses: 3})
		defer c.Close()
		for range 8 { // the first is the call's own
			get(t, c, "a")
		}
		if n := m.calls.Load(); n != 2 {
			t.Errorf("%d calls below, want 2", n)
		}
	})
}

func TestCacheRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMoody()
		c := NewCache(m, CacheConfig{})
		defer c.Close()
		ask := func(blob string, ref KeyRef, want error, calls int64) {
			t.Helper()
			_, err := c.Decrypt(t.Context(), DecryptInput{CiphertextBlob: []byte(blob), KeyID: ref})
			if !errors.Is(err, want) || m.calls.Load() != calls {
				t.Errorf("got %v after %d calls, want %v after %d", err, m.calls.Load(), want, calls)
			}
		}
		m.set(ErrDenied)
		ask("a", fakeARN, ErrDenied, 1)
		ask("a", fakeARN, ErrDenied, 1)
		ask("b", fakeARN, ErrDenied, 1)
		ask("b", "", ErrDenied, 2)
		file := func(volume, file string, want error, calls int64) {
			t.Helper()
			_, err := c.Decrypt(t.Context(), DecryptInput{CiphertextBlob: []byte(file), KeyID: fakeARN,
				EncryptionContext: Context{"kmsfs:volume": volume, FileContextName: file}})
			if !errors.Is(err, want) || m.calls.Load() != calls {
				t.Errorf("volume %s, file %s: got %v after %d calls, want %v after %d", volume, file, err, m.calls.Load(), want, calls)
			}
		}
		file("v", "f", ErrDenied, 3) // a policy may tell volumes apart
		file("v", "g", ErrDenied, 3) // but not files
		m.set(nil)
		file("w", "h", nil, 4)
		m.set(ErrDisabled)
		ask("c", "k", ErrDisabled, 5)
		file("v", "i", ErrDenied, 5)
		ask("d", "k", ErrDisabled, 5) // a CMK is disabled for all
		ask("d", "", ErrDisabled, 6)
		m.set(nil)
		ask("c", "k", ErrDisabled, 6)
		time.Sleep(3 * time.Second)
		ask("c", "k", nil, 7)
		m.set(ErrNotFound)
		ask("e", fakeARN, ErrNotFound, 8)
		m.set(nil)
		c.Purge()
		ask("e", fakeARN, nil, 9)
		if s := c.Stats(); s.Refused != 6 {
			t.Errorf("got %+v", s)
		}
	})
}
