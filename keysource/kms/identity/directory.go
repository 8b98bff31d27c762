package identity

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"kmsfs/keysource"
	"kmsfs/keysource/local"
)

// DocumentName is the document of the key store with the users.
const DocumentName = "users"

// Config says how a Directory works. The zero value is the default.
type Config struct {
	// CheckInterval is how often the file is looked at for changes by others; 0 is 1 s, negative is at every lookup.
	CheckInterval time.Duration
	// Clock is the time; nil is keysource.SystemClock.
	Clock keysource.Clock
	// Rand is the source of secrets, safe for concurrent use; nil is crypto/rand.Reader.
	Rand io.Reader
	// Changed, where not nil, is told what changed since the last look, within CheckInterval or at the next lookup after
	// it. It must not call the Directory.
	Changed func([]Change)
	// Logger gets a line when the file cannot be read while it is in use; nil is none.
	Logger *slog.Logger
}

// Directory is the users and roles of a key store. All methods are safe for concurrent use.
type Directory struct {
	doc     *local.Document
	account string
	cfg     Config
	start   time.Time
	next    atomic.Int64 // when to look at the file again, in nanoseconds since start
	reading sync.Mutex   // held by who reads the file
	state   atomic.Pointer[state]
}

// Open returns the directory of store, which stays the caller's to close after the last use. A store without users has
// an empty directory.
func Open(store *local.Store, cfg Config) (*Directory, error) {
	doc, err := store.Document(DocumentName)
	if err != nil {
		return nil, err
	}
	account, _ := store.Account()
	if cfg.CheckInterval == 0 {
		cfg.CheckInterval = time.Second
	}
	if cfg.Clock == nil {
		cfg.Clock = keysource.SystemClock{}
	}
	if cfg.Rand == nil {
		cfg.Rand = rand.Reader
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	d := &Directory{doc: doc, account: account, cfg: cfg, start: cfg.Clock.Now()}
	d.state.Store(&state{})
	err = d.reload()
	if s := d.state.Load(); err == nil && s.content == nil { // there is no file: the first users will be a change
		d.state.Store(&state{content: &content{}})
	}
	return d, err
}

// Account is the 12 digits of the account that all principals are of.
func (d *Directory) Account() string { return d.account }

// List returns all principals by kind and name.
func (d *Directory) List() ([]Principal, error) {
	b, _, err := d.doc.Read(local.Revision{})
	if err != nil {
		return nil, err
	}
	defer clear(b)
	c, err := parseContent(b)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(c.Principals, func(x, y Principal) int {
		if x.Kind != y.Kind {
			return -strings.Compare(string(x.Kind), string(y.Kind)) // users first
		}
		return strings.Compare(x.Name, y.Name)
	})
	return c.Principals, nil
}

// Create makes a principal without access keys.
func (d *Directory) Create(ctx context.Context, kind Kind, name string, policies []Policy) (Principal, error) {
	if err := checkName(string(kind), name); err != nil {
		return Principal{}, err
	}
	if err := checkPolicies(policies); err != nil {
		return Principal{}, err
	}
	prefix := map[Kind]string{User: "AIDA", Role: "AROA"}[kind]
	id, err := d.randomID(prefix, 17)
	if err != nil {
		return Principal{}, err
	}
	p := Principal{Kind: kind, Name: name, ID: id, Created: d.now(), Policies: policies}
	return p, d.update(ctx, func(c *content) error {
		if c.find(kind, name) != nil {
			return fail(keysource.CodeAlreadyExists, "the %s %s exists", kind, name)
		}
		c.Principals = append(c.Principals, p)
		return nil
	})
}

// Delete removes a principal with its access keys.
func (d *Directory) Delete(ctx context.Context, kind Kind, name string) error {
	return d.update(ctx, func(c *content) error {
		n := len(c.Principals)
		c.Principals = slices.DeleteFunc(c.Principals, func(p Principal) bool { return p.Kind == kind && p.Name == name })
		if len(c.Principals) == n {
			return errNoPrincipal(kind, name)
		}
		return nil
	})
}

// SetPolicies replaces the policies of a principal by what change makes of them.
func (d *Directory) SetPolicies(ctx context.Context, kind Kind, name string, change func([]Policy) ([]Policy, error)) error {
	return d.change(ctx, kind, name, func(p *Principal) error {
		policies, err := change(p.Policies)
		if err == nil {
			err = checkPolicies(policies)
		}
		p.Policies = policies
		return err
	})
}

// CreateAccessKey makes an access key. The answer is the only time that its secret is shown.
func (d *Directory) CreateAccessKey(ctx context.Context, kind Kind, name string) (AccessKey, error) {
	id, err := d.randomID("AKIA", 16)
	if err != nil {
		return AccessKey{}, err
	}
	secret := make([]byte, 30) // 40 characters, as AWS
	defer clear(secret)
	if _, err := io.ReadFull(d.cfg.Rand, secret); err != nil {
		return AccessKey{}, fmt.Errorf("random bytes: %w", err)
	}
	k := AccessKey{ID: id, Secret: Secret(base64.StdEncoding.EncodeToString(secret)), Created: d.now()}
	return k, d.change(ctx, kind, name, func(p *Principal) error {
		if len(p.AccessKeys) >= MaxAccessKeys {
			return fail(keysource.CodeLimitExceeded, "the %s %s has %d access keys, which is the most", kind, name, MaxAccessKeys)
		}
		p.AccessKeys = append(p.AccessKeys, k)
		return nil
	})
}

// SetAccessKey enables or disables an access key.
func (d *Directory) SetAccessKey(ctx context.Context, kind Kind, name, id string, status Status) error {
	return d.change(ctx, kind, name, func(p *Principal) error {
		k := p.key(id)
		if k == nil {
			return errNoKey(p, id)
		}
		k.Disabled = status == Disabled
		return nil
	})
}

// Status says whether an access key may sign.
type Status int

// The states of an access key.
const (
	Enabled Status = iota
	Disabled
)

// DeleteAccessKey removes an access key.
func (d *Directory) DeleteAccessKey(ctx context.Context, kind Kind, name, id string) error {
	return d.change(ctx, kind, name, func(p *Principal) error {
		if p.key(id) == nil {
			return errNoKey(p, id)
		}
		p.AccessKeys = slices.DeleteFunc(p.AccessKeys, func(k AccessKey) bool { return k.ID == id })
		return nil
	})
}

// change edits one principal.
func (d *Directory) change(ctx context.Context, kind Kind, name string, edit func(p *Principal) error) error {
	return d.update(ctx, func(c *content) error {
		p := c.find(kind, name)
		if p == nil {
			return errNoPrincipal(kind, name)
		}
		return edit(p)
	})
}

// update makes one durable change.
func (d *Directory) update(ctx context.Context, edit func(c *content) error) error {
	err := d.doc.Update(ctx, func(old []byte) ([]byte, error) {
		c, err := parseContent(old)
		if err != nil {
			return nil, err
		}
		if err := edit(c); err != nil {
			return nil, err
		}
		return json.Marshal(c)
	})
	if err != nil {
		return err
	}
	return d.reload()
}

// randomID makes an id as AWS's: a prefix and n letters and digits.
func (d *Directory) randomID(prefix string, n int) (string, error) {
	b := make([]byte, 20)
	if _, err := io.ReadFull(d.cfg.Rand, b); err != nil {
		return "", fmt.Errorf("random bytes: %w", err)
	}
	return prefix + base32.StdEncoding.EncodeToString(b)[:n], nil
}

// now is the time as it is stored.
func (d *Directory) now() time.Time { return d.cfg.Clock.Now().UTC().Truncate(time.Second) }

// checkPolicies refuses too many or too large policies, names twice, and what cannot be read.
func checkPolicies(policies []Policy) error {
	if len(policies) > MaxPolicies {
		return fail(keysource.CodeLimitExceeded, "at most %d policies are attached", MaxPolicies)
	}
	seen := map[string]bool{}
	for _, p := range policies {
		if seen[p.Name] {
			return fail(keysource.CodeAlreadyExists, "the policy %s is attached already", p.Name)
		}
		seen[p.Name] = true
		if err := checkName("policy", p.Name); err != nil {
			return err
		}
		if _, err := p.parse(); err != nil {
			return err
		}
	}
	return nil
}

// errNoPrincipal is for a user or role that does not exist.
func errNoPrincipal(kind Kind, name string) error {
	return fail(keysource.CodeNotFound, "no %s %s", kind, name)
}

// errNoKey is for an access key that a principal does not have.
func errNoKey(p *Principal, id string) error {
	return fail(keysource.CodeNotFound, "the %s %s has no access key %s", p.Kind, p.Name, id)
}
