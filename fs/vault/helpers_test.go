package vault_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"kmsfs/fs/backing"
	"kmsfs/fs/backing/memfs"
	"kmsfs/fs/vault"
	"kmsfs/keysource"
	"kmsfs/keysource/local"
)

var (
	who = vault.Caller{Umask: 0o022}
	ctx = context.Background()
)

// testStore is a key store on the disk.
func testStore(t testing.TB) keysource.Keysource {
	t.Helper()
	ks, err := local.Create(ctx, local.Config{Dir: filepath.Join(t.TempDir(), "store")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ks.Close() })
	return ks
}

// memoryKeys is a keysource that costs nothing: a wrapped key is the number of a key that it remembers.
type memoryKeys struct {
	mu    sync.Mutex
	keys  map[string]memoryKey
	calls int
	fail  func(call int) error // asked before each call
}

type memoryKey struct {
	plain   []byte
	context string
}

func (k *memoryKeys) before() error {
	k.calls++
	if k.fail != nil {
		return k.fail(k.calls - 1)
	}
	return nil
}

func (k *memoryKeys) GenerateDataKey(ctx context.Context, in keysource.GenerateDataKeyInput) (keysource.DataKey, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.before(); err != nil {
		return keysource.DataKey{}, err
	}
	if k.keys == nil {
		k.keys = map[string]memoryKey{}
	}
	plain := make([]byte, envelopeKeySize)
	rand.Read(plain)
	blob := fmt.Sprintf("key %d of memory", len(k.keys))
	k.keys[blob] = memoryKey{plain, fmt.Sprint(in.EncryptionContext)}
	return keysource.DataKey{Plaintext: keysource.NewPlaintextKey(plain), CiphertextBlob: []byte(blob), KeyID: memoryARN}, nil
}

func (k *memoryKeys) Decrypt(ctx context.Context, in keysource.DecryptInput) (keysource.DecryptResult, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.before(); err != nil {
		return keysource.DecryptResult{}, err
	}
	key, ok := k.keys[string(in.CiphertextBlob)]
	if !ok || key.context != fmt.Sprint(in.EncryptionContext) || in.KeyID != memoryARN {
		return keysource.DecryptResult{}, keysource.ErrInvalidCiphertext
	}
	return keysource.DecryptResult{Plaintext: keysource.NewPlaintextKey(key.plain), KeyID: memoryARN}, nil
}

func (k *memoryKeys) ReEncrypt(context.Context, keysource.ReEncryptInput) (keysource.ReEncryptResult, error) {
	return keysource.ReEncryptResult{}, keysource.ErrDenied
}

func (k *memoryKeys) DescribeKey(context.Context, keysource.KeyRef) (keysource.KeyMetadata, error) {
	return keysource.KeyMetadata{}, keysource.ErrDenied
}

func (k *memoryKeys) Close() error { return nil }

const (
	envelopeKeySize = 32
	memoryARN       = "arn:aws:kms:local:000000000000:key/memory"
)

// place makes handles of one directory.
type place func() backing.Dir

// inMemory is a directory on a fresh memfs.
func inMemory() (place, *memfs.FS) {
	fs := memfs.New(memfs.Config{})
	return fs.Root, fs
}

// onDisk is a directory on the disk.
func onDisk(t testing.TB) place {
	dir := t.TempDir()
	return func() backing.Dir {
		d, err := backing.OpenDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
}

// makeVault makes a vault, which is not open then.
func makeVault(t testing.TB, at place, ks keysource.Keysource, chunk int) {
	t.Helper()
	d := at()
	defer d.Close()
	c := vault.CreateConfig{Keysource: "local:store", Key: "alias/aws/kmsfs", ChunkSize: chunk}
	if err := vault.Create(ctx, d, ks, c); err != nil {
		t.Fatal(err)
	}
}

func openVault(t testing.TB, at place, ks keysource.Keysource, o vault.Options) *vault.Vault {
	t.Helper()
	if o.KeepEvery == 0 {
		o.KeepEvery = time.Hour // tests say when
	}
	v, err := vault.Open(ctx, at(), ks, o)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// newVault makes a vault and opens it.
func newVault(t testing.TB, at place, ks keysource.Keysource, o vault.Options) *vault.Vault {
	t.Helper()
	makeVault(t, at, ks, 0)
	return openVault(t, at, ks, o)
}
