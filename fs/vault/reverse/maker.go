package reverse

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/bug"
	"kmsfs/fs/vault/sidecar"
)

// How many calls of the keysource are under way at once; how many records are made durable together, and how long more of
// them are waited for; and how often vault.json is looked at.
const (
	makerCalls   = 64
	gatherEnough = 256
	gatherFor    = 5 * time.Millisecond
	lookEvery    = time.Second
)

// maker makes the data keys of files that have none. Workers ask the keysource, many at once; the writer makes the records
// that have come durable together, and only then is a key handed out.
type maker struct {
	v     *View
	count atomic.Uint64 // keys made
	table *sidecar.Writer
	wg    sync.WaitGroup

	mu      sync.Mutex
	under   map[envelope.FileID]*want
	queue   []*want
	made    []*want
	workers int
	writing bool

	renew  func()     // see Options.Renew
	cfgMu  sync.Mutex // a leaf
	cfg    *envelope.Config
	looked time.Time
	seen   [3]uint64 // of vault.json: inode, size, time of change
}

// want is a data key being made.
type want struct {
	id     envelope.FileID
	done   chan struct{} // closed at the end, when err says how it went
	err    error
	key    dataKey
	record *envelope.Record
}

func (m *maker) start(v *View) {
	m.v, m.under, m.table, m.cfg = v, map[envelope.FileID]*want{}, v.sidecar.NewWriter(v.now), v.cfg
}

func (m *maker) close() {
	m.wg.Wait()
	m.table.Close()
}

// make makes the data keys of those ids that have none, and returns when their records are durable. The first error counts.
func (m *maker) make(ctx context.Context, ids ...envelope.FileID) error {
	for _, w := range m.order(ids) {
		select {
		case <-w.done:
			if w.err != nil {
				return fmt.Errorf("%w: %w", vault.ErrNoKey, w.err)
			}
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", vault.ErrNoKey, ctx.Err())
		}
	}
	return nil
}

// order has keys made, or joins those who wait for them.
func (m *maker) order(ids []envelope.FileID) []*want {
	m.mu.Lock()
	defer m.mu.Unlock()
	var wants []*want
	for _, id := range ids {
		w := m.under[id]
		if w == nil {
			if _, ok := m.v.keys.locator(id); ok {
				continue
			}
			w = &want{id: id, done: make(chan struct{})}
			m.under[id] = w
			if len(ids) == 1 { // somebody reads
				m.queue = append([]*want{w}, m.queue...)
			} else {
				m.queue = append(m.queue, w)
			}
		}
		wants = append(wants, w)
	}
	for started := 0; started < len(m.queue) && m.workers < makerCalls; started++ {
		m.workers++
		m.wg.Go(m.worker)
	}
	return wants
}

// worker makes keys while there are some to make. Where one fails, those that nobody has begun fail too.
func (m *maker) worker() {
	for {
		m.mu.Lock()
		if len(m.queue) == 0 {
			m.workers--
			m.mu.Unlock()
			return
		}
		w := m.queue[0]
		m.queue = m.queue[1:]
		m.mu.Unlock()
		ctx, cancel := context.WithTimeout(m.v.ctx, m.v.deadline)
		w.key.born = m.v.now()
		w.err = bug.Guard(m.v.log, func() (err error) {
			w.key.fk, w.record, err = vault.NewDataKey(ctx, m.v.ks, m.config(), m.v.geo, w.id, "", m.v.now())
			return err
		})
		cancel()
		m.mu.Lock()
		if w.err == nil {
			m.made = append(m.made, w)
			if !m.writing {
				m.writing = true
				m.wg.Go(m.writer)
			}
		} else {
			for _, other := range m.queue {
				other.err = w.err
				m.end(other)
			}
			m.queue = nil
			m.end(w)
		}
		m.mu.Unlock()
	}
}

// end tells who waits. m.mu is held.
func (m *maker) end(w *want) {
	delete(m.under, w.id)
	close(w.done)
}

// writer makes records durable until there are none.
func (m *maker) writer() {
	for {
		m.gather()
		m.mu.Lock()
		batch := m.made
		m.made = nil
		if len(batch) == 0 {
			m.writing = false
			m.mu.Unlock()
			return
		}
		m.mu.Unlock()
		records := make([]*envelope.Record, len(batch))
		for i, w := range batch {
			records[i] = w.record
		}
		var locs []envelope.Locator
		err := bug.Guard(m.v.log, func() (err error) { locs, err = m.table.Append(records); return err })
		m.mu.Lock()
		for i, w := range batch {
			if err != nil {
				w.err = fmt.Errorf("write key records: %w", err)
				w.key.fk.Wipe()
			} else {
				w.key.loc = locs[i]
				m.v.keys.note(w.id, w.key.loc)
				m.v.keys.keep(w.id, w.key)
				m.count.Add(1)
			}
			m.end(w)
		}
		m.mu.Unlock()
	}
}

// gather waits a moment for more records while more are coming.
func (m *maker) gather() {
	for end := time.Now().Add(gatherFor); ; time.Sleep(gatherFor / 10) {
		m.mu.Lock()
		enough := m.workers == 0 || len(m.made) >= gatherEnough
		m.mu.Unlock()
		if enough || time.Now().After(end) {
			return
		}
	}
}

// config returns the config of the state as it is now: after a rewrap new data keys are for the CMK that it names then. One that
// is not authentic is not used.
func (m *maker) config() *envelope.Config {
	m.cfgMu.Lock()
	defer m.cfgMu.Unlock()
	if now := time.Now(); now.Sub(m.looked) >= lookEvery {
		m.looked = now
		st, err := m.v.ctl.StatAt(configName)
		if is := fingerprint(&st); err == nil && is != m.seen {
			first := m.seen == [3]uint64{}
			m.seen = is
			cfg, err := vault.ReadConfig(m.v.state)
			if err == nil {
				err = cfg.Verify(m.v.vk)
			}
			if err != nil {
				m.v.log.Error("vault.json was changed, and is not used: the config read before stays", "err", err)
			} else {
				m.cfg = cfg
				if m.renew != nil && !first {
					m.renew()
				}
			}
		}
	}
	return m.cfg
}

// fingerprint tells one vault.json from the one that takes its place.
func fingerprint(st *backing.Stat) [3]uint64 {
	return [3]uint64{st.Ino, uint64(st.Size), uint64(st.Mtim.Time().UnixNano())}
}
