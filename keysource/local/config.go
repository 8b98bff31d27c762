package local

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"time"

	"kmsfs/keysource"
	"kmsfs/keysource/passphrase"
)

// Names in the directory of a key store.
const (
	// StoreName is the sealed file with the CMKs.
	StoreName = "keystore"
	// KeyFileName is the default master key file.
	KeyFileName = "master.key"
	// LockName is the file whose lock an administrative change holds.
	LockName = "lock"
	// newSuffix ends the name of a file that is being written aside.
	newSuffix = ".new"
)

// DefaultAlias is the first CMK, which Create makes on the user's behalf.
const DefaultAlias = keysource.ReservedAliasPrefix + "kmsfs"

// Master says what opens a key store, and with Create and ChangeMasterKey what shall open it.
type Master struct {
	// KeyFile is the path of a master key file; empty is KeyFileName in the directory of the store. Create and
	// ChangeMasterKey make it where it is missing.
	KeyFile string
	// Passphrase, where not nil, is asked for the passphrase. Create and ChangeMasterKey then use a passphrase; Open
	// asks only if the store has one.
	Passphrase passphrase.Source
	// Argon2 is how Create and ChangeMasterKey stretch a passphrase; the zero value is DefaultArgon2.
	Argon2 Argon2
}

// Config says where a key store is and how to use it. Dir is needed; the zero value of all else is the default.
type Config struct {
	// Dir is the directory of the key store.
	Dir string
	// Master opens it.
	Master Master
	// AccountID and Region are for the ARNs of a store that Create makes; empty is "000000000000" and "local".
	AccountID, Region string
	// CheckInterval is how often the file is looked at for changes by others; 0 is 1 s, negative is at every call.
	CheckInterval time.Duration
	// Clock is the time; nil is keysource.SystemClock.
	Clock keysource.Clock
	// Rand is the source of all keys and salts, safe for concurrent use; nil is crypto/rand.Reader.
	Rand io.Reader
	// Logger gets a line when the file cannot be read while the store is in use, and when something that was due was
	// done or cannot be done; nil is none.
	Logger *slog.Logger
	// Event, where not nil, is told what was due and done by this process, once it is durable. It must not call the store.
	Event func(Event)

	// fsys is the disk; nil is the real one. Tests put a crashing one here.
	fsys fileSystem
}

// resolve validates c and fills in the defaults.
func (c Config) resolve() (Config, error) {
	if c.Dir == "" {
		return c, keysource.NewError("Open", "", keysource.CodeValidation, "a key store needs a directory")
	}
	// The mount changes its working directory when it goes to the background.
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return c, fmt.Errorf("key store directory: %w", err)
	}
	c.Dir = dir
	if c.Master, err = c.Master.resolve(dir); err != nil {
		return c, err
	}
	if c.AccountID == "" {
		c.AccountID = "000000000000"
	}
	if c.Region == "" {
		c.Region = "local"
	}
	if c.CheckInterval == 0 {
		c.CheckInterval = time.Second
	}
	if c.Clock == nil {
		c.Clock = keysource.SystemClock{}
	}
	if c.Rand == nil {
		c.Rand = rand.Reader
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.fsys == nil {
		c.fsys = osFS{}
	}
	return c, validateNames(c.AccountID, c.Region)
}

// resolve fills in the defaults for a store in dir.
func (m Master) resolve(dir string) (Master, error) {
	if m.KeyFile == "" {
		m.KeyFile = filepath.Join(dir, KeyFileName)
	}
	path, err := filepath.Abs(m.KeyFile)
	if err != nil {
		return m, fmt.Errorf("master key file: %w", err)
	}
	m.KeyFile = path
	if m.Argon2 == (Argon2{}) {
		m.Argon2 = DefaultArgon2()
	}
	return m, m.Argon2.validate()
}

// validateNames refuses an account or region that would not make an ARN.
func validateNames(account, region string) error {
	ref := keysource.KeyRef("arn:aws:kms:" + region + ":" + account + ":key/0")
	p, err := ref.Parse()
	if err != nil || p.Region != region || p.Account != account || len(region) > 64 || len(account) != 12 {
		return keysource.NewError("Create", "", keysource.CodeValidation, "account is 12 digits, region is a name")
	}
	for _, c := range account {
		if c < '0' || c > '9' {
			return keysource.NewError("Create", "", keysource.CodeValidation, "account is 12 digits")
		}
	}
	return nil
}

// passphraseFrom asks for a passphrase. The caller wipes it.
func (m Master) passphraseFrom(ctx context.Context, purpose passphrase.Purpose) ([]byte, error) {
	if m.Passphrase == nil {
		return nil, keysource.WithHint(fmt.Errorf("key store is sealed under a passphrase: %w", ErrMasterKey),
			"give the passphrase on a terminal, a file descriptor or by a command")
	}
	p, err := m.Passphrase(ctx, purpose)
	if err != nil {
		return nil, fmt.Errorf("passphrase: %w", err)
	}
	if len(p) == 0 {
		return nil, fmt.Errorf("passphrase is empty: %w", ErrMasterKey)
	}
	return p, nil
}
