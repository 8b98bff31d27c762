package rewrap

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
	"kmsfs/keysource"
)

// zones knows the encryption zone of each file, from a walk over the stored tree: directories name their zone in clear, files
// their id. It is not verified: that needs the volume key.
type zones struct {
	of    map[envelope.FileID]keysource.KeyRef // "": that of the config
	began time.Time
	// incomplete: something was moved or removed during the walk, or cannot be read. What was not met may have a zone.
	incomplete bool
}

// recent is how long before the walk a record may have been made that may belong to a file that the walk has not met yet.
const recent = time.Minute

// walkZones finds the zones of all files of a vault that has some; nil for one that has none.
func (r *run) walkZones(ctx context.Context) (*zones, error) {
	if r.o.To != "" || !slices.Contains(r.cfg.Features, envelope.FeatureZones) {
		return nil, nil
	}
	z := &zones{of: map[envelope.FileID]keysource.KeyRef{}, began: r.o.Now()}
	if err := z.walk(ctx, r.top, ""); err != nil {
		return nil, fmt.Errorf("find the encryption zones: %w", err)
	}
	return z, nil
}

// walk goes through a stored directory that is in zone. What is moved or removed meanwhile is left out.
func (z *zones) walk(ctx context.Context, dir backing.Dir, zone keysource.KeyRef) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var entries []backing.Entry
	if err := dir.ReadDir(func(e backing.Entry) bool {
		if !envelope.IsReserved(e.Name) {
			entries = append(entries, e)
		}
		return true
	}); err != nil {
		return err
	}
	for _, e := range entries {
		if e.Kind == 0 {
			st, err := dir.StatAt(e.Name)
			if err != nil {
				z.incomplete = true
				continue
			}
			e.Kind = st.Mode & syscall.S_IFMT
		}
		switch e.Kind {
		case syscall.S_IFREG:
			h, ok, err := headerOf(dir, e.Name)
			if ok {
				z.of[h.ID] = zone
			}
			z.incomplete = z.incomplete || err != nil
		case syscall.S_IFDIR:
			sub, err := dir.OpenDir(e.Name)
			if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ELOOP) {
				z.incomplete = true
				continue
			}
			if err != nil {
				return err
			}
			own, err := zoneOf(sub)
			if err == nil {
				if own == "" {
					own = zone
				}
				err = z.walk(ctx, sub, own)
			}
			sub.Close()
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// zoneOf is the zone that a stored directory is itself; "" for none.
func zoneOf(dir backing.Dir) (keysource.KeyRef, error) {
	zone, err := vault.PeekZone(dir)
	switch {
	case errors.Is(err, syscall.ENOENT): // lost+found, or being taken apart
		return "", nil
	case errors.Is(err, envelope.ErrCorrupt): // as its files are: they do not open
		return "", nil
	}
	return keysource.KeyRef(zone), err
}

// headerOf reads the header of a stored file; false for one without a key, or a damaged one. An error says that it cannot be
// read, or is gone.
func headerOf(dir backing.Dir, name string) (h envelope.Header, ok bool, err error) {
	f, err := dir.Open(name, syscall.O_RDONLY, 0)
	if err != nil {
		return h, false, err
	}
	defer f.Close()
	b := make([]byte, envelope.HeaderSize)
	n, err := f.ReadAt(b, 0)
	if err != nil || n < len(b) {
		return h, false, err
	}
	h, damage := envelope.ParseHeader(b)
	return h, damage == nil, nil
}

// goal is the CMK that the first wrapping of a record is to be of. A record of no file is to be under that of the config,
// unless the walk may have missed its file, also one that was made since: it stays under its CMK then.
func (z *zones) goal(rec *envelope.Record, base keysource.KeyRef) keysource.KeyRef {
	zone, ok := z.of[rec.ID]
	switch {
	case zone != "":
		return zone
	case !ok && (z.incomplete || rec.Created > z.began.Add(-recent).UnixNano()):
		return keysource.KeyRef(rec.Wrappings[0].KeyARN)
	}
	return base
}
