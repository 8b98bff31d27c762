package kms

import (
	"sync"

	"kmsfs/keysource"
	"kmsfs/keysource/local"
)

// Config says how a Service works. The zero value is the default.
type Config struct {
	// Clock is the time; nil is keysource.SystemClock. It should be that of the store.
	Clock keysource.Clock
}

// Service answers the operations of AWS KMS from a key store. All methods are safe for concurrent use.
type Service struct {
	store    *local.Store
	cfg      Config
	account  string // of the store
	region   string
	policies sync.Map // of *cachedPolicy by key id
}

// New returns the service of an open store, which stays the caller's to close, after the last call of the service.
func New(store *local.Store, cfg Config) *Service {
	if cfg.Clock == nil {
		cfg.Clock = keysource.SystemClock{}
	}
	s := &Service{store: store, cfg: cfg}
	s.account, s.region = store.Account()
	return s
}

// arnPrefix begins every ARN of the store.
func (s *Service) arnPrefix() string { return "arn:aws:kms:" + s.region + ":" + s.account + ":" }
