package keysource

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// echo is a Decrypt whose plaintext is the blob, counting its calls and taking a second.
func echo(calls *atomic.Int64) *fake {
	return &fake{decrypt: func(ctx context.Context, in DecryptInput) (DecryptResult, error) {
		calls.Add(1)
		if err := (SystemClock{}).Sleep(ctx, time.Second); err != nil {
			return DecryptResult{}, err
		}
		if in.KeyID != "" && !in.KeyID.IsAlias() && !in.KeyID.Matches(fakeARN) {
			return DecryptResult{}, ErrIncorrectKey
		}
		return DecryptResult{Plaintext: NewPlaintextKey(in.CiphertextBlob), KeyID: fakeARN}, nil
	}}
}

// get decrypts blob and checks the answer.
func get(t *testing.T, c *Cache, blob string) {
	t.Helper()
	r, err := c.Decrypt(t.Context(), DecryptInput{CiphertextBlob: []byte(blob)})
	if err != nil || string(r.Plaintext.Bytes()) != blob {
		t.Errorf("got %q, %v, want %q", r.Plaintext.Bytes(), err, blob)
	}
	r.Plaintext.Wipe()
}

func TestCacheTimes(t *testing.T) {
	for _, test := range []struct {
		name  string
		cfg   CacheConfig
		step  time.Duration
		steps int
		calls int64
	}{
		{"in time", CacheConfig{}, time.Second, 20, 1},
		{"idle", CacheConfig{MaxIdle: 5 * time.Second}, 6 * time.Second, 5, 5},
		{"old though asked for", CacheConfig{MaxAge: 10 * time.Second}, 4 * time.Second, 6, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var calls atomic.Int64
				c := NewCache(echo(&calls), test.cfg)
				defer c.Close()
				for range test.steps {
					get(t, c, "a")
					time.Sleep(test.step)
				}
				if calls.Load() != test.calls {
					t.Errorf("got %d calls below, want %d", calls.Load(), test.calls)
				}
			})
		})
	}
}

func TestCacheSweepWipesUnasked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int64
		c := NewCache(echo(&calls), CacheConfig{MaxIdle: time.Minute})
		defer c.Close()
		get(t, c, "secret")
		var kept PlaintextKey
		c.mu.Lock()
		for _, el := range c.entries {
			kept = el.Value.(*cacheEntry).result.Plaintext
		}
		c.mu.Unlock()
		if string(kept.Bytes()) != "secret" {
			t.Fatalf("kept %q", kept.Bytes())
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if s := c.Stats(); s.Count != 0 || s.Evicted != 1 {
			t.Errorf("got %+v", s)
		}
		if string(kept.Bytes()) != "\x00\x00\x00\x00\x00\x00" {
			t.Error("the evicted key was not wiped")
		}
	})
}

func TestCacheCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int64
		c := NewCache(echo(&calls), CacheConfig{MaxCount: 2})
		defer c.Close()
		for _, blob := range []string{"a", "b", "a", "c", "a", "b"} { // c evicts b, the least recently used
			get(t, c, blob)
		}
		if s := c.Stats(); calls.Load() != 4 || s.Count != 2 || s.Hits != 2 || s.Misses != 4 || s.Evicted != 2 {
			t.Errorf("got %d calls, %+v", calls.Load(), s)
		}
	})
}

func TestCacheSingleFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int64
		c := NewCache(echo(&calls), CacheConfig{})
		defer c.Close()
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() { get(t, c, "a") })
		}
		wg.Wait()
		if s := c.Stats(); calls.Load() != 1 || s.Joined != 49 {
			t.Errorf("got %d calls below, %+v", calls.Load(), s)
		}
		if len(c.flights) != 0 {
			t.Error("a flight is left")
		}
	})
}

func TestCacheFirstCallerGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int64
		c := NewCache(echo(&calls), CacheConfig{})
		defer c.Close()
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := c.Decrypt(ctx, DecryptInput{CiphertextBlob: []byte("a")}); !errors.Is(err, context.Canceled) {
				t.Errorf("first: got %v", err)
			}
		})
		synctest.Wait()
		wg.Go(func() { get(t, c, "a") })
		synctest.Wait()
		cancel()
		wg.Wait()
		if calls.Load() != 1 {
			t.Errorf("got %d calls below, want 1", calls.Load())
		}
	})
}

// TestCacheFirstCallerGivesUpQuickly is the same where the keysource was quick before, and the call is the first caller's
// own: then the second makes another.
func TestCacheFirstCallerGivesUpQuickly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int64
		c := NewCache(&fake{decrypt: func(ctx context.Context, in DecryptInput) (DecryptResult, error) {
			if calls.Add(1) == 2 {
				<-ctx.Done()
				return DecryptResult{}, ctx.Err()
			}
			return DecryptResult{Plaintext: NewPlaintextKey(in.CiphertextBlob), KeyID: fakeARN}, nil
		}}, CacheConfig{})
		defer c.Close()
		get(t, c, "quick")
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := c.Decrypt(ctx, DecryptInput{CiphertextBlob: []byte("a")}); !errors.Is(err, context.Canceled) {
				t.Errorf("first: got %v", err)
			}
		})
		synctest.Wait()
		wg.Go(func() { get(t, c, "a") })
		synctest.Wait()
		cancel()
		wg.Wait()
		if calls.Load() != 3 {
			t.Errorf("got %d calls below, want 3", calls.Load())
		}
	})
}

// TestCacheCloseEndsQuickCall: Close ends a call that runs in its caller's goroutine, and waits for it.
func TestCacheCloseEndsQuickCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int64
		c := NewCache(&fake{decrypt: func(ctx context.Context, in DecryptInput) (DecryptResult, error) {
			if calls.Add(1) == 2 {
				<-ctx.Done()
				return DecryptResult{}, ctx.Err()
			}
			return DecryptResult{Plaintext: NewPlaintextKey(in.CiphertextBlob), KeyID: fakeARN}, nil
		}}, CacheConfig{})
		get(t, c, "quick")
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := c.Decrypt(t.Context(), DecryptInput{CiphertextBlob: []byte("a")}); !errors.Is(err, ErrClosed) {
				t.Errorf("got %v, want ErrClosed", err)
			}
		})
		synctest.Wait()
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		wg.Wait()
	})
}

func TestCacheAllGiveUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan error, 1)
		c := NewCache(&fake{decrypt: func(ctx context.Context, _ DecryptInput) (DecryptResult, error) {
			<-ctx.Done()
			ended <- ctx.Err()
			return DecryptResult{}, ctx.Err()
		}}, CacheConfig{})
		defer c.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.Decrypt(ctx, DecryptInput{CiphertextBlob: []byte("a")}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		if err := <-ended; err == nil {
			t.Error("the call below was not cancelled")
		}
		if len(c.flights) != 0 {
			t.Error("a cancelled flight can still be joined")
		}
	})
}

func TestCacheKeepsNoErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls int
		c := NewCache(failing(&calls, ErrUnavailable), CacheConfig{})
		defer c.Close()
		if _, err := c.Decrypt(t.Context(), DecryptInput{}); !errors.Is(err, ErrUnavailable) {
			t.Errorf("got %v", err)
		}
		if _, err := c.Decrypt(t.Context(), DecryptInput{}); err != nil {
			t.Errorf("got %v", err)
		}
	})
}

func TestCacheNamesOfKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int64
		c := NewCache(echo(&calls), CacheConfig{})
		defer c.Close()
		for _, test := range []struct {
			ref   KeyRef
			calls int64
			err   error
		}{
			{"", 1, nil}, {fakeARN, 1, nil}, {"k", 1, nil}, {"other", 2, ErrIncorrectKey}, {"k", 2, nil},
			{"alias/a", 3, nil}, {"alias/a", 3, nil}, {"alias/b", 4, nil}, {"other", 5, ErrIncorrectKey},
		} {
			_, err := c.Decrypt(t.Context(), DecryptInput{CiphertextBlob: []byte("a"), KeyID: test.ref})
			if !errors.Is(err, test.err) || calls.Load() != test.calls {
				t.Errorf("%q: got %v after %d calls, want %v after %d", test.ref, err, calls.Load(), test.err, test.calls)
			}
		}
	})
}

func TestCacheRefusalIsNotShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int64
		c := NewCache(echo(&calls), CacheConfig{})
		defer c.Close()
		var wg sync.WaitGroup
		for _, ref := range []KeyRef{"other", "", "k", "other"} {
			wg.Go(func() {
				_, err := c.Decrypt(t.Context(), DecryptInput{CiphertextBlob: []byte("a"), KeyID: ref})
				if (ref == "other") != errors.Is(err, ErrIncorrectKey) {
					t.Errorf("%q: got %v", ref, err)
				}
			})
		}
		wg.Wait()
	})
}

func TestCachePurgeDuringCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int64
		c := NewCache(echo(&calls), CacheConfig{})
		defer c.Close()
		var wg sync.WaitGroup
		wg.Go(func() { get(t, c, "a") })
		synctest.Wait()
		c.Purge()
		wg.Wait()
		if c.Stats().Count != 0 {
			t.Error("an answer from before the purge was kept")
		}
		get(t, c, "a")
		if calls.Load() != 2 {
			t.Errorf("got %d calls below, want 2", calls.Load())
		}
	})
}

func TestCacheKeepsGenerated(t *testing.T) {
	c := NewCache(&fake{}, CacheConfig{}) // a Decrypt below would be a nil call
	defer c.Close()
	k, err := c.GenerateDataKey(t.Context(), GenerateDataKeyInput{})
	if err != nil {
		t.Fatal(err)
	}
	k.Plaintext.Wipe()
	r, err := c.Decrypt(t.Context(), DecryptInput{CiphertextBlob: k.CiphertextBlob})
	if err != nil || string(r.Plaintext.Bytes()) != "generated" {
		t.Errorf("got %q, %v", r.Plaintext.Bytes(), err)
	}
}

func TestCacheCloseEndsCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int64
		inner := echo(&calls)
		c := NewCache(inner, CacheConfig{})
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := c.Decrypt(context.Background(), DecryptInput{}); !errors.Is(err, ErrClosed) {
				t.Errorf("got %v, want ErrClosed", err)
			}
		})
		synctest.Wait()
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		wg.Wait()
		if inner.closed != 1 {
			t.Errorf("inner was closed %d times", inner.closed)
		}
	})
}

// TestCacheRace has readers, evictions, purges and sweeps meet; the race detector watches, and no reader may see a
// wiped key.
func TestCacheRace(t *testing.T) {
	c := NewCache(&fake{decrypt: func(_ context.Context, in DecryptInput) (DecryptResult, error) {
		return DecryptResult{Plaintext: NewPlaintextKey(in.CiphertextBlob), KeyID: fakeARN}, nil
	}}, CacheConfig{MaxCount: 3, MaxAge: 5 * time.Millisecond})
	defer c.Close()
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 500 {
				get(t, c, fmt.Sprintf("key-%d", (i+w)%7))
				if i%50 == 0 {
					c.Purge()
				}
				if i%70 == 0 {
					c.sweep()
				}
			}
		})
	}
	wg.Wait()
}
