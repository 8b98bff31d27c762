package rewrap_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/backing/memfs"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/rewrap"
	"kmsfs/fs/vault/sidecar"
	"kmsfs/keysource"
	"kmsfs/keysource/local"
)

// kms is a key store that counts calls, and does what a test wants before and after.
type kms struct {
	*local.Store
	reEncrypts, decrypts, describes atomic.Int64
	before                          func(op string, n int64) error
	after                           func(n int64, r *keysource.ReEncryptResult)
}

func (k *kms) ReEncrypt(ctx context.Context, in keysource.ReEncryptInput) (keysource.ReEncryptResult, error) {
	n := k.reEncrypts.Add(1)
	if k.before != nil {
		if err := k.before("ReEncrypt", n); err != nil {
			return keysource.ReEncryptResult{}, err
		}
	}
	r, err := k.Store.ReEncrypt(ctx, in)
	if k.after != nil && err == nil {
		k.after(n, &r)
	}
	return r, err
}

func (k *kms) Decrypt(ctx context.Context, in keysource.DecryptInput) (keysource.DecryptResult, error) {
	n := k.decrypts.Add(1)
	if k.before != nil {
		if err := k.before("Decrypt", n); err != nil {
			return keysource.DecryptResult{}, err
		}
	}
	return k.Store.Decrypt(ctx, in)
}

func (k *kms) DescribeKey(ctx context.Context, key keysource.KeyRef) (keysource.KeyMetadata, error) {
	k.describes.Add(1)
	return k.Store.DescribeKey(ctx, key)
}

// world is a vault on a file system in memory and its key store.
type world struct {
	t    testing.TB
	fs   *memfs.FS
	ks   *kms
	cfg  *envelope.Config
	locs []envelope.Locator
	ids  []envelope.FileID
}

const alias = "alias/files"

// newWorld makes a vault with n records under alias/files.
func newWorld(t testing.TB, n int, more ...string) *world {
	t.Helper()
	s, err := local.Create(t.Context(), local.Config{Dir: filepath.Join(t.TempDir(), "store")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	w := &world{t: t, fs: memfs.New(memfs.Config{}), ks: &kms{Store: s}}
	key := w.newCMK()
	w.must(s.CreateAlias(t.Context(), alias, keysource.KeyRef(key)))
	root := w.fs.Root()
	defer root.Close()
	w.must(vault.Create(t.Context(), root, s, vault.CreateConfig{Keysource: "local:store", Key: alias, AlsoWrap: more}))
	w.cfg = w.config()
	ctl, sc := w.sidecar()
	defer ctl.Close()
	defer sc.Close()
	wr := sc.NewWriter(time.Now)
	defer wr.Close()
	geo, err := envelope.NewGeometry(w.cfg.ChunkSize)
	w.must(err)
	for len(w.ids) < n {
		var batch []*envelope.Record
		for range min(256, n-len(w.ids)) {
			var id envelope.FileID
			rand.Read(id[:])
			dk, err := s.GenerateDataKey(t.Context(), keysource.GenerateDataKeyInput{KeyID: alias,
				EncryptionContext: envelope.FileContext(w.cfg.Volume, id), NumberOfBytes: envelope.KeySize})
			w.must(err)
			fk, err := envelope.NewFileKey(dk.Plaintext.Bytes(), id, geo)
			w.must(err)
			batch = append(batch, envelope.NewRecord(fk, id, 1, []envelope.Wrapping{{ContextVersion: envelope.ContextVersion,
				KeyARN: dk.KeyID, KeyMaterialID: dk.KeyMaterialID, Blob: dk.CiphertextBlob}}))
			w.ids = append(w.ids, id)
		}
		locs, err := wr.Append(batch)
		w.must(err)
		w.locs = append(w.locs, locs...)
	}
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) config() *envelope.Config {
	root := w.fs.Root()
	defer root.Close()
	cfg, err := vault.ReadConfig(root)
	w.must(err)
	return cfg
}

func (w *world) sidecar() (backing.Dir, *sidecar.Sidecar) {
	w.t.Helper()
	ctl, err := w.fs.Root().OpenDir(envelope.ControlDir)
	w.must(err)
	sc, err := sidecar.Open(ctl, w.config().Volume)
	w.must(err)
	return ctl, sc
}

// newCMK makes a CMK and returns its ARN.
func (w *world) newCMK() string {
	md, err := w.ks.CreateKey(w.t.Context(), keysource.CreateKeyInput{})
	w.must(err)
	return md.ARN
}

// rotate gives the CMK of the vault new key material.
func (w *world) rotate() string {
	md, err := w.ks.RotateKeyOnDemand(w.t.Context(), alias)
	w.must(err)
	return md.CurrentKeyMaterialID
}

// run rewraps, quickly.
func (w *world) run(ctx context.Context, o rewrap.Options) (rewrap.Summary, error) {
	root := w.fs.Root()
	defer root.Close()
	if o.Settle == 0 {
		o.Settle = -1
	}
	return rewrap.Run(ctx, root, w.ks, o)
}

// check looks at every record and the volume key: each opens with the key store, and its first wrapping is by want, if it
// is given. It returns how many are by material.
func (w *world) check(arn, material string) (by int) {
	w.t.Helper()
	ctl, sc := w.sidecar()
	defer ctl.Close()
	defer sc.Close()
	geo, _ := envelope.NewGeometry(w.cfg.ChunkSize)
	for i, loc := range w.locs {
		r, err := sc.Record(loc, w.ids[i])
		w.must(err)
		for _, wr := range r.Wrappings {
			dk, err := w.ks.Store.Decrypt(w.t.Context(), keysource.DecryptInput{CiphertextBlob: wr.Blob,
				EncryptionContext: envelope.FileContext(w.cfg.Volume, r.ID), KeyID: keysource.KeyRef(wr.KeyARN)})
			w.must(err)
			if dk.KeyMaterialID != wr.KeyMaterialID {
				w.t.Errorf("record %d says another key material than it is under", i)
			}
			fk, err := envelope.NewFileKey(dk.Plaintext.Bytes(), r.ID, geo)
			w.must(err)
			w.must(r.Verify(fk))
		}
		if arn != "" && r.Wrappings[0].KeyARN != arn {
			w.t.Fatalf("record %d is under %s", i, r.Wrappings[0].KeyARN)
		}
		if r.Wrappings[0].KeyMaterialID == material {
			by++
		}
	}
	root := w.fs.Root()
	v, err := vault.Open(w.t.Context(), root, w.ks.Store, vault.Options{Access: vault.ReadOnly})
	w.must(err)
	w.must(v.Close())
	return by
}

// TestRotation: all keys come under the new material, once; the next run calls DescribeKey alone.
func TestRotation(t *testing.T) {
	w := newWorld(t, 5000)
	before := w.ks.reEncrypts.Load()
	material := w.rotate()
	dry, err := w.run(t.Context(), rewrap.Options{DryRun: true})
	if err != nil || dry.Records != 5000 || dry.Behind != 5000 || dry.Calls != 5001 || !dry.VolumeKey || w.ks.reEncrypts.Load() != before {
		t.Errorf("dry run: %+v, %v", dry, err)
	}
	var events []rewrap.Event
	s, err := w.run(t.Context(), rewrap.Options{Audit: func(e rewrap.Event) error { events = append(events, e); return nil }})
	if err != nil || s.Rewrapped != 5000 || s.Calls != 5001 || !s.VolumeKey || s.KeyChanged || s.Failed+s.Damaged+s.Meanwhile != 0 {
		t.Errorf("%+v, %v", s, err)
	}
	if by := w.check("", material); by != 5000 {
		t.Errorf("%d are under the new material", by)
	}
	if got := w.config().Wrappings[0].KeyMaterialID; got != material {
		t.Error("the volume key is under the old material")
	}
	if len(events) != 5001 || events[0].Result != rewrap.ResultRewrapped || events[0].NewMaterial != material || events[0].OldMaterial == material {
		t.Errorf("%d events, the first %+v", len(events), events[0])
	}
	calls, ops := w.ks.reEncrypts.Load(), w.fs.Ops()
	s, err = w.run(t.Context(), rewrap.Options{})
	if err != nil || s.Calls != 0 || s.Behind != 0 || w.ks.reEncrypts.Load() != calls || w.ks.decrypts.Load() != 0 || w.fs.Ops() != ops {
		t.Errorf("again: %+v, %v", s, err)
	}
	if s, err = w.run(t.Context(), rewrap.Options{Force: true, RPS: 1e6, Shard: 0, Shards: 1, MaxErrors: 1}); err != nil || s.Rewrapped != 5000 {
		t.Errorf("by force: %+v, %v", s, err)
	}
}

// TestTo moves a vault to another CMK; then the old one is of no use, and the vault opens.
func TestTo(t *testing.T) {
	w := newWorld(t, 300)
	old := w.config().Wrappings[0].KeyARN
	to := w.newCMK()
	s, err := w.run(t.Context(), rewrap.Options{To: keysource.KeyRef(to), Verify: true})
	if err != nil || s.Rewrapped != 300 || !s.KeyChanged {
		t.Fatalf("%+v, %v", s, err)
	}
	w.must(w.ks.DisableKey(t.Context(), keysource.KeyRef(old)))
	w.check(to, "")
	if cfg := w.config(); cfg.Key != to {
		t.Errorf("new files get %s", cfg.Key)
	}
	if s, err := w.run(t.Context(), rewrap.Options{}); err != nil || s.Calls != 0 {
		t.Errorf("again: %+v, %v", s, err)
	}
}

// TestToWithoutDecrypt: who may not decrypt rewraps everything, and is told that new files keep the old CMK.
func TestToWithoutDecrypt(t *testing.T) {
	w := newWorld(t, 50)
	to := w.newCMK()
	w.ks.before = func(op string, _ int64) error {
		if op == "Decrypt" {
			return keysource.NewError(op, "", keysource.CodeAccessDenied, "no")
		}
		return nil
	}
	s, err := w.run(t.Context(), rewrap.Options{To: keysource.KeyRef(to)})
	if !errors.Is(err, rewrap.ErrKeyKept) || s.Rewrapped != 50 || s.KeyChanged {
		t.Fatalf("%+v, %v", s, err)
	}
	w.check(to, "")
	if cfg := w.config(); cfg.Key != alias || cfg.Wrappings[0].KeyARN != to {
		t.Errorf("key %s, volume key under %s", cfg.Key, cfg.Wrappings[0].KeyARN)
	}
}

// TestWrappings adds a wrapping, moves by it when the first CMK is lost, and removes wrappings.
func TestWrappings(t *testing.T) {
	w := newWorld(t, 40)
	first := w.config().Wrappings[0].KeyARN
	second, third := w.newCMK(), w.newCMK()
	counts := func(want int) {
		t.Helper()
		ctl, sc := w.sidecar()
		defer ctl.Close()
		defer sc.Close()
		for i, loc := range w.locs {
			if r, err := sc.Record(loc, w.ids[i]); err != nil || len(r.Wrappings) != want {
				t.Fatalf("record %d: %v, %v", i, r, err)
			}
		}
		if n := len(w.config().Wrappings); n != want {
			t.Fatalf("%d wrappings of the volume key", n)
		}
	}
	if s, err := w.run(t.Context(), rewrap.Options{Add: []keysource.KeyRef{keysource.KeyRef(second)}}); err != nil || s.Rewrapped != 40 {
		t.Fatalf("%+v, %v", s, err)
	}
	counts(2)
	w.check(first, "")
	if s, err := w.run(t.Context(), rewrap.Options{Add: []keysource.KeyRef{keysource.KeyRef(second)}}); err != nil || s.Calls != 0 {
		t.Fatalf("again: %+v, %v", s, err)
	}
	if _, err := w.run(t.Context(), rewrap.Options{Remove: []keysource.KeyRef{alias}}); !errors.Is(err, keysource.ErrInvalidArgument) {
		t.Errorf("removed the CMK in use: %v", err)
	}
	w.must(w.ks.DisableKey(t.Context(), keysource.KeyRef(first)))
	if s, err := w.run(t.Context(), rewrap.Options{To: keysource.KeyRef(third)}); err != nil || s.Rewrapped != 40 || !s.KeyChanged {
		t.Fatalf("by the second wrapping: %+v, %v", s, err)
	}
	counts(2)
	w.check(third, "")
	calls := w.ks.reEncrypts.Load()
	if s, err := w.run(t.Context(), rewrap.Options{Remove: []keysource.KeyRef{keysource.KeyRef(second)}}); err != nil || s.Rewrapped != 40 {
		t.Fatalf("%+v, %v", s, err)
	}
	counts(1)
	if w.ks.reEncrypts.Load() != calls {
		t.Error("removing a wrapping made calls")
	}
	w.check(third, "")
}

// TestFrom: what is under another CMK or material stays.
func TestFrom(t *testing.T) {
	w := newWorld(t, 20)
	old := w.config().Wrappings[0]
	material := w.rotate()
	half := func(_ envelope.Locator, id envelope.FileID) bool { return bytes.Compare(id[:], w.ids[0][:]) <= 0 }
	n := 0
	for _, id := range w.ids {
		if half(envelope.Locator{}, id) {
			n++
		}
	}
	if s, err := w.run(t.Context(), rewrap.Options{Only: half}); err != nil || s.Rewrapped != int64(n) || s.VolumeKey {
		t.Fatalf("%+v, %v", s, err)
	}
	to := w.newCMK()
	s, err := w.run(t.Context(), rewrap.Options{From: old.KeyMaterialID, To: keysource.KeyRef(to)})
	if err != nil || s.Rewrapped != int64(20-n) || s.KeyChanged {
		t.Fatalf("%+v, %v", s, err)
	}
	if by := w.check("", material); by != n {
		t.Errorf("%d under the new material of the first CMK, not %d", by, n)
	}
	if s, err := w.run(t.Context(), rewrap.Options{From: w.newCMK(), To: keysource.KeyRef(to)}); err != nil || s.Calls != 0 {
		t.Errorf("from a CMK without records: %+v, %v", s, err)
	}
	if s, err := w.run(t.Context(), rewrap.Options{From: alias, To: keysource.KeyRef(to)}); err != nil || s.Rewrapped != int64(n) || !s.KeyChanged {
		t.Errorf("from the CMK of the config: %+v, %v", s, err)
	}
	w.check(to, "")
}

// TestShards: the shards are the whole, and the volume key is of the first.
func TestShards(t *testing.T) {
	w := newWorld(t, 9000)
	material := w.rotate()
	total := int64(0)
	for i := range 3 {
		s, err := w.run(t.Context(), rewrap.Options{Shard: i, Shards: 3})
		if err != nil || s.VolumeKey != (i == 0) {
			t.Errorf("shard %d: %+v, %v", i, s, err)
		}
		total += s.Rewrapped
	}
	if by := w.check("", material); by != 9000 || total != 9000 {
		t.Errorf("%d and %d of 9000", by, total)
	}
}

// TestLies: whatever a KMS answers, no key is lost, and no wrong answer taken.
func TestLies(t *testing.T) {
	for name, lie := range map[string]func(r *keysource.ReEncryptResult){
		"another CMK":      func(r *keysource.ReEncryptResult) { r.KeyID += "0" },
		"another source":   func(r *keysource.ReEncryptResult) { r.SourceKeyID += "0" },
		"nothing":          func(r *keysource.ReEncryptResult) { r.CiphertextBlob = nil },
		"zeros":            func(r *keysource.ReEncryptResult) { r.CiphertextBlob = make([]byte, 100) },
		"too much":         func(r *keysource.ReEncryptResult) { r.CiphertextBlob = bytes.Repeat([]byte("x"), 6145) },
		"no material id":   func(r *keysource.ReEncryptResult) { r.KeyMaterialID = "none" },
		"verify: nonsense": func(r *keysource.ReEncryptResult) { r.CiphertextBlob[len(r.CiphertextBlob)-1] ^= 1 },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 30)
			material := w.rotate()
			w.ks.after = func(n int64, r *keysource.ReEncryptResult) {
				if n%3 == 0 {
					lie(r)
				}
			}
			o := rewrap.Options{Verify: name == "verify: nonsense"}
			s, err := w.run(t.Context(), o)
			if !errors.Is(err, rewrap.ErrIncomplete) || s.Failed == 0 || s.Failed > 11 {
				t.Errorf("%+v, %v", s, err)
			}
			if by := w.check("", material); by != int(s.Rewrapped) {
				t.Errorf("%d under the new material, %d rewrapped", by, s.Rewrapped)
			}
			w.ks.after = nil
			if s, err := w.run(t.Context(), rewrap.Options{}); err != nil || s.Failed != 0 {
				t.Errorf("then: %+v, %v", s, err)
			}
			if by := w.check("", material); by != 30 {
				t.Errorf("then %d under the new material", by)
			}
		})
	}
}

// TestMaxErrors: a run gives up after so many errors, with what was done saved.
func TestMaxErrors(t *testing.T) {
	w := newWorld(t, 400)
	material := w.rotate()
	w.ks.before = func(op string, n int64) error {
		if n > 100 {
			return keysource.NewError(op, "", keysource.CodeAccessDenied, "no more")
		}
		return nil
	}
	s, err := w.run(t.Context(), rewrap.Options{Concurrency: 4, MaxErrors: 10})
	if !errors.Is(err, rewrap.ErrTooManyErrors) || !errors.Is(err, keysource.ErrDenied) || s.Failed < 10 || s.Failed > 14 || s.Rewrapped != 100 {
		t.Errorf("%+v, %v", s, err)
	}
	if by := w.check("", material); by != 100 {
		t.Errorf("%d are saved", by)
	}
}

// TestInterrupted: what was done is saved when ctx ends and also before, and is not done again.
func TestInterrupted(t *testing.T) {
	w := newWorld(t, 1000)
	material := w.rotate()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w.ks.before = func(_ string, n int64) error {
		if n == 300 {
			cancel()
		}
		return nil
	}
	s, err := w.run(ctx, rewrap.Options{Concurrency: 8})
	if !errors.Is(err, context.Canceled) || s.Failed != 0 || s.Rewrapped < 290 || s.Rewrapped > 320 {
		t.Fatalf("%+v, %v", s, err)
	}
	if by := w.check("", material); by != int(s.Rewrapped) || w.ks.reEncrypts.Load() != s.Rewrapped {
		t.Errorf("%d saved, %d calls", by, w.ks.reEncrypts.Load())
	}
	again, err := w.run(t.Context(), rewrap.Options{})
	if err != nil || again.Rewrapped != 1000-s.Rewrapped || w.ks.reEncrypts.Load() != 1001 {
		t.Errorf("then: %+v, %v, %d calls in all", again, err, w.ks.reEncrypts.Load())
	}
}

// TestThrottled: the rate falls, all is done, and no record fails.
func TestThrottled(t *testing.T) {
	w := newWorld(t, 200)
	material := w.rotate()
	var mu sync.Mutex
	tokens, last := 20.0, time.Now()
	w.ks.before = func(op string, _ int64) error { // 200 a second
		mu.Lock()
		defer mu.Unlock()
		now := time.Now()
		tokens = min(tokens+now.Sub(last).Seconds()*200, 20)
		last = now
		if tokens < 1 {
			return keysource.NewError(op, "", keysource.CodeThrottling, "slow down")
		}
		tokens--
		return nil
	}
	s, err := w.run(t.Context(), rewrap.Options{})
	if err != nil || s.Rewrapped != 200 || s.Throttled == 0 || s.Throttled > 400 {
		t.Errorf("%+v, %v", s, err)
	}
	if by := w.check("", material); by != 200 {
		t.Errorf("%d under the new material", by)
	}
}

// TestOutage: a keysource that is gone for a while is waited for, and one that stays away is not.
func TestOutage(t *testing.T) {
	w := newWorld(t, 100)
	w.rotate()
	var gone atomic.Bool
	w.ks.before = func(op string, n int64) error {
		if n == 50 {
			gone.Store(true)
			time.AfterFunc(300*time.Millisecond, func() { gone.Store(false) })
		}
		if gone.Load() {
			return keysource.NewError(op, "", keysource.CodeInternal, "gone")
		}
		return nil
	}
	if s, err := w.run(t.Context(), rewrap.Options{}); err != nil || s.Rewrapped != 100 {
		t.Errorf("%+v, %v", s, err)
	}
	material := w.rotate()
	w.ks.before = func(op string, _ int64) error { return keysource.NewError(op, "", keysource.CodeInternal, "gone") }
	s, err := w.run(t.Context(), rewrap.Options{Patience: 100 * time.Millisecond, MaxErrors: 5})
	if !errors.Is(err, keysource.ErrUnavailable) || s.Rewrapped != 0 {
		t.Errorf("%+v, %v", s, err)
	}
	if by := w.check("", material); by != 0 {
		t.Error(by)
	}
}

// TestCrash cuts a run before each of its operations: every key opens after it, and the next run finishes.
func TestCrash(t *testing.T) {
	base := newWorld(t, 60)
	to := base.newCMK()
	whole := base.fs
	cuts := 0
	for k := int64(0); ; k++ {
		w := *base
		w.fs = whole.Kill()
		w.fs.FailAt(k)
		_, err := w.run(t.Context(), rewrap.Options{To: keysource.KeyRef(to), FlushEvery: time.Millisecond, Concurrency: 2})
		if err != nil && !errors.Is(err, memfs.ErrCrashed) {
			t.Fatalf("cut %d: %v", k, err)
		}
		crashed := w.fs
		for seed := range uint64(4) {
			w.fs = crashed.Kill()
			if seed > 0 {
				w.fs = crashed.Crash(memfs.Policy{Names: memfs.Names(seed % 3), Sectors: seed%2 == 0, Choose: memfs.Random(seed<<16 | uint64(k))})
			}
			w.check("", "")
			if seed == 1 {
				if _, err := w.run(t.Context(), rewrap.Options{To: keysource.KeyRef(to)}); err != nil {
					t.Fatalf("cut %d, again: %v", k, err)
				}
				w.check(to, "")
			}
			cuts++
		}
		if err == nil {
			break
		}
	}
	t.Logf("%d cuts", cuts)
}

// TestTwoAtOnce: two runs do not harm each other.
func TestTwoAtOnce(t *testing.T) {
	w := newWorld(t, 1500)
	material := w.rotate()
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			if s, err := w.run(t.Context(), rewrap.Options{FlushEvery: 5 * time.Millisecond}); err != nil {
				t.Errorf("%+v, %v", s, err)
			}
		})
	}
	wg.Wait()
	if by := w.check("", material); by != 1500 {
		t.Errorf("%d under the new material", by)
	}
}

// TestWhileMounted rewraps while files are made and deleted through a vault that is open. Then the old CMK is of no use:
// all files that there are open, new ones are made, and no record is left under it.
func TestWhileMounted(t *testing.T) {
	w := newWorld(t, 0)
	ctx := t.Context()
	old, to := w.config().Wrappings[0].KeyARN, w.newCMK()
	v, err := vault.Open(ctx, w.fs.Root(), w.ks.Store, vault.Options{KeepEvery: 20 * time.Millisecond})
	w.must(err)
	name := func(g, i int) string { return fmt.Sprintf("f%d-%d", g, i) }
	create := func(n string) error {
		node, _, err := v.Create(v.Root(), n, 0o600, vault.Caller{})
		if err != nil {
			return err
		}
		defer v.Forget(node, 1)
		_, err = v.Write(ctx, node, []byte(n), 0, vault.KeepPrivileges)
		return err
	}
	var wg sync.WaitGroup
	var stop atomic.Bool
	var made [3]int
	for g := range made {
		wg.Go(func() {
			for i := 0; !stop.Load() || i < 50; i++ {
				if err := create(name(g, i)); err != nil {
					t.Error(err)
					return
				}
				if i%3 == 2 {
					if err := v.Unlink(v.Root(), name(g, i-1)); err != nil {
						t.Error(err)
					}
				}
				made[g] = i + 1
			}
		})
	}
	time.Sleep(100 * time.Millisecond)
	s, err := w.run(ctx, rewrap.Options{To: keysource.KeyRef(to), Settle: 1500 * time.Millisecond})
	if err != nil || s.Rewrapped == 0 || !s.KeyChanged {
		t.Errorf("%+v, %v", s, err)
	}
	stop.Store(true)
	wg.Wait()
	w.must(w.ks.DisableKey(ctx, keysource.KeyRef(old)))
	if got := v.Config().Key; got != to {
		t.Errorf("the mount still has %s", got)
	}
	w.must(create("after"))
	w.must(v.Flush())
	w.must(v.Close())
	v, err = vault.Open(ctx, w.fs.Root(), w.ks.Store, vault.Options{})
	w.must(err)
	files := 0
	for g, n := range made {
		for i := range n {
			if i%3 == 1 && i+1 < n {
				continue
			}
			node, _, err := v.Lookup(v.Root(), name(g, i))
			w.must(err)
			b := make([]byte, 64)
			k, err := v.Read(ctx, node, b, 0)
			if err != nil || string(b[:k]) != name(g, i) {
				t.Fatalf("%s: %q, %v", name(g, i), b[:k], err)
			}
			v.Forget(node, 1)
			files++
		}
	}
	w.must(v.Close())
	ctl, sc := w.sidecar()
	defer ctl.Close()
	defer sc.Close()
	w.must(sc.Scan(ctx, sidecar.ScanOptions{}, func(p *sidecar.Part) error {
		for e := range p.Entries() {
			if e.Err != nil || e.Record.Wrappings[0].KeyARN != to {
				t.Errorf("slot %v: %v, %v", e.Loc, e.Record, e.Err)
			}
		}
		return p.Err
	}))
	t.Logf("%d files, %d keys rewrapped, %d erased meanwhile", files, s.Rewrapped, s.Meanwhile)
}

// TestBranch: keys under a branch key move with it, for one call each branch key and not each key.
func TestBranch(t *testing.T) {
	w := newWorld(t, 0)
	ctx := t.Context()
	chain := func() *keysource.Branch {
		b, err := keysource.NewBranch(keysource.NewCache(unclosed{w.ks}, keysource.CacheConfig{}), keysource.BranchLimits{MaxAge: time.Hour, MaxCount: 200}, nil)
		w.must(err)
		return b
	}
	branch := chain()
	v, err := vault.Open(ctx, w.fs.Root(), branch, vault.Options{})
	w.must(err)
	const files = 500
	for i := range files {
		n, _, err := v.Create(v.Root(), fmt.Sprint(i), 0o600, vault.Caller{})
		w.must(err)
		_, err = v.Write(ctx, n, fmt.Append(nil, i), 0, vault.KeepPrivileges)
		w.must(err)
		v.Forget(n, 1)
	}
	w.must(v.Close())
	w.must(branch.Close())
	material := w.rotate()
	mover := chain()
	defer mover.Close()
	root := w.fs.Root()
	defer root.Close()
	dry, err := rewrap.Run(ctx, root, mover, rewrap.Options{DryRun: true, Concurrency: 1, Settle: -1})
	w.must(err)
	before := w.ks.reEncrypts.Load()
	s, err := rewrap.Run(ctx, root, mover, rewrap.Options{Settle: -1})
	if calls := w.ks.reEncrypts.Load() - before; err != nil || s.Rewrapped < files || calls != dry.Calls || calls > 8 || w.ks.decrypts.Load() > 10 {
		t.Errorf("%d calls, %d in the dry run, %+v, %v", calls, dry.Calls, s, err)
	}
	again := chain()
	defer again.Close()
	v, err = vault.Open(ctx, w.fs.Root(), again, vault.Options{Access: vault.ReadOnly})
	w.must(err)
	defer v.Close()
	ids, err := rewrap.Subtree(ctx, v, "")
	if err != nil || len(ids) != files {
		t.Errorf("%d files in the subtree, %v", len(ids), err)
	}
	if ids, err := rewrap.Subtree(ctx, v, "/7"); err != nil || len(ids) != 1 {
		t.Errorf("%d files in the subtree of one, %v", len(ids), err)
	}
	for i := range files {
		n, _, err := v.Lookup(v.Root(), fmt.Sprint(i))
		w.must(err)
		b := make([]byte, 16)
		k, err := v.Read(ctx, n, b, 0)
		if r, e := v.KeyInfo(n); err != nil || e != nil || string(b[:k]) != fmt.Sprint(i) || r.Wrappings[0].KeyMaterialID != material {
			t.Fatalf("file %d: %q, %v, %v", i, b[:k], err, e)
		}
		v.Forget(n, 1)
	}
}

// unclosed is a keysource that its decorator does not close.
type unclosed struct{ keysource.Keysource }

func (unclosed) Close() error { return nil }

// TestDamage: a damaged record stays as it is and is told of; all others move, also when their table's slots grow.
func TestDamage(t *testing.T) {
	w := newWorld(t, 100)
	keys, err := w.fs.Root().OpenDir(envelope.ControlDir)
	w.must(err)
	keys, err = keys.OpenDir("keys")
	w.must(err)
	f, err := keys.Open(envelope.TableName(w.locs[7].Table), syscall.O_RDWR, 0)
	w.must(err)
	_, err = f.WriteAt([]byte("damage"), int64(w.locs[7].Slot)*envelope.MinSlotSize+90)
	w.must(err)
	w.must(f.Close())
	material := w.rotate()
	add := []keysource.KeyRef{keysource.KeyRef(w.newCMK()), keysource.KeyRef(w.newCMK())}
	var damaged []rewrap.Event
	s, err := w.run(t.Context(), rewrap.Options{Add: add, Audit: func(e rewrap.Event) error {
		if e.Result == rewrap.ResultDamaged {
			damaged = append(damaged, e)
		}
		return nil
	}})
	if !errors.Is(err, rewrap.ErrIncomplete) || s.Damaged != 1 || s.Failed != 0 || s.Rewrapped != 99 || len(damaged) != 1 || damaged[0].Loc != w.locs[7] {
		t.Errorf("%+v, %v, %v", s, err, damaged)
	}
	w.locs, w.ids = append(w.locs[:7:7], w.locs[8:]...), append(w.ids[:7:7], w.ids[8:]...)
	if by := w.check("", material); by != 99 {
		t.Errorf("%d under the new material", by)
	}
}

// TestReplacedMeanwhile: a record that is rewrapped between being read and being opened is read again.
func TestReplacedMeanwhile(t *testing.T) {
	w := newWorld(t, 0)
	ctx := t.Context()
	old, to := w.config().Wrappings[0].KeyARN, w.newCMK()
	v, err := vault.Open(ctx, w.fs.Root(), w.ks.Store, vault.Options{})
	w.must(err)
	n, _, err := v.Create(v.Root(), "f", 0o600, vault.Caller{})
	w.must(err)
	_, err = v.Write(ctx, n, []byte("content"), 0, vault.KeepPrivileges)
	w.must(err)
	v.Forget(n, 1)
	w.must(v.Close())
	w.ks.before = func(op string, n int64) error {
		if op != "Decrypt" || n != 2 { // the first is for the volume key
			return nil
		}
		w.ks.before = nil
		if _, err := w.run(ctx, rewrap.Options{To: keysource.KeyRef(to)}); err != nil {
			t.Error(err)
		}
		return w.ks.DisableKey(ctx, keysource.KeyRef(old))
	}
	v, err = vault.Open(ctx, w.fs.Root(), unclosed{w.ks}, vault.Options{})
	w.must(err)
	defer v.Close()
	n, _, err = v.Lookup(v.Root(), "f")
	w.must(err)
	defer v.Forget(n, 1)
	b := make([]byte, 16)
	if k, err := v.Read(ctx, n, b, 0); err != nil || string(b[:k]) != "content" || w.ks.before != nil {
		t.Errorf("%q, %v", b[:k], err)
	}
}
