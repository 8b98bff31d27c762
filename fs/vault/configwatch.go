package vault

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
)

// lookEvery is how soon a mount notices that vault.json was replaced, when it needs keys.
const lookEvery = time.Second

// configWatch notices that another process has replaced vault.json: a rewrap, or whoever sets the CMK of new files.
type configWatch struct {
	v      *Vault
	looked atomic.Int64 // when, ns since 1970

	mu   sync.Mutex // held while reading
	seen fingerprint
}

// fingerprint tells one vault.json from the one that takes its place.
type fingerprint struct {
	ino, dev uint64
	size     int64
	mtime    backing.Timespec
}

func fingerprintOf(st backing.Stat) fingerprint {
	return fingerprint{st.Ino, st.Dev, st.Size, st.Mtim}
}

// run looks from time to time, for what is not asked for keys.
func (w *configWatch) run() {
	t := time.NewTicker(max(w.v.keepEvery, lookEvery))
	defer t.Stop()
	for {
		select {
		case <-t.C:
			_ = w.v.guarded(func() error { w.look(); return nil })
		case <-w.v.ctx.Done():
			return
		}
	}
}

// look takes over a config that has changed: its CMK and wrappings are for new data keys, those made ahead are given up,
// and new branch keys begun. It looks at most once in lookEvery. What is not authentic is logged, and nothing changes.
func (w *configWatch) look() {
	now := w.v.now().UnixNano()
	last := w.looked.Load()
	if now-last < int64(lookEvery) && now >= last || !w.looked.CompareAndSwap(last, now) {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	st, err := w.v.ctlDir.StatAt(configName)
	if err != nil {
		return // a mount lives on without
	}
	is := fingerprintOf(st)
	if is == w.seen {
		return
	}
	first := w.seen == fingerprint{}
	err = w.reread(first)
	if err == nil || errors.Is(err, envelope.ErrCorrupt) || errors.Is(err, envelope.ErrUnsupported) || errors.Is(err, envelope.ErrWrongKey) {
		w.seen = is // else it is read again
	}
	if err != nil {
		w.v.log.Error("vault.json was changed, and is not used: the config read before stays", "err", err)
	}
}

// reload takes over the config that is there now.
func (w *configWatch) reload() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	st, err := w.v.ctlDir.StatAt(configName)
	if err != nil {
		return err
	}
	if err = w.reread(true); err == nil {
		w.seen = fingerprintOf(st)
	}
	return err
}

// reread reads the config. The first time it may be the one that Open has read.
func (w *configWatch) reread(first bool) error {
	cfg, err := ReadConfig(w.v.top)
	if err != nil {
		return err
	}
	if cfg.Volume != w.v.cfg.Volume || cfg.ChunkSize != w.v.cfg.ChunkSize {
		return fmt.Errorf("%w: it is another vault's", envelope.ErrCorrupt)
	}
	if err := cfg.Verify(w.v.keys); err != nil {
		return err
	}
	if first && sameConfig(cfg, w.v.current.Load()) {
		return nil
	}
	w.v.current.Store(cfg)
	if w.v.renew != nil {
		w.v.renew()
	}
	w.v.pools.drain()
	w.v.log.Info("vault.json was changed: new files get new data keys", "key", cfg.Key)
	return nil
}

func sameConfig(a, b *envelope.Config) bool {
	x, errX := a.Remarshal()
	y, errY := b.Remarshal()
	return errX == nil && errY == nil && bytes.Equal(x, y)
}
