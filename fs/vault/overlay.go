package vault

import (
	"sync"
	"syscall"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
)

// overlay is a stored file that is changed in memory only: what a read-only mount makes of what the journal has of it.
type overlay struct {
	backing.File
	mu    sync.RWMutex
	size  int64 // below 0: that of the file
	cut   bool  // it was truncated: the file is not looked at any more
	pages map[int64]*[envelope.BlockSize]byte
}

// length returns the size. o.mu is held.
func (o *overlay) length() (int64, error) {
	if o.size >= 0 {
		return o.size, nil
	}
	st, err := o.File.Stat()
	return st.Size, err
}

// Stat is File.Stat with the size in memory.
func (o *overlay) Stat() (backing.Stat, error) {
	o.mu.RLock()
	defer o.mu.RUnlock()
	st, err := o.File.Stat()
	if o.size >= 0 {
		st.Size = o.size
	}
	return st, err
}

// ReadAt reads what is in memory, else what is in the file.
func (o *overlay) ReadAt(p []byte, off int64) (int, error) {
	o.mu.RLock()
	defer o.mu.RUnlock()
	return o.readAt(p, off)
}

func (o *overlay) readAt(p []byte, off int64) (int, error) {
	size, err := o.length()
	if err != nil || off >= size {
		return 0, err
	}
	p = p[:min(int64(len(p)), size-off)]
	got := 0
	if !o.cut {
		if got, err = o.File.ReadAt(p, off); err != nil {
			return 0, err
		}
	}
	clear(p[got:])
	for n := off / envelope.BlockSize; n*envelope.BlockSize < off+int64(len(p)); n++ {
		pg := o.pages[n]
		if pg == nil {
			continue
		}
		if at := n*envelope.BlockSize - off; at >= 0 {
			copy(p[at:], pg[:])
		} else {
			copy(p, pg[-at:])
		}
	}
	return len(p), nil
}

// WriteAt writes to memory.
func (o *overlay) WriteAt(p []byte, off int64) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	size, err := o.length()
	if err != nil {
		return 0, err
	}
	for done := 0; done < len(p); {
		n, in := (off+int64(done))/envelope.BlockSize, (off+int64(done))%envelope.BlockSize
		if err := o.load(n); err != nil {
			return done, err
		}
		done += copy(o.pages[n][in:], p[done:])
	}
	o.size = max(size, off+int64(len(p)))
	return len(p), nil
}

// load brings a page into memory. o.mu is held.
func (o *overlay) load(n int64) error {
	if o.pages[n] != nil {
		return nil
	}
	pg := new([envelope.BlockSize]byte)
	if _, err := o.readAt(pg[:], n*envelope.BlockSize); err != nil {
		return err
	}
	if o.pages == nil {
		o.pages = map[int64]*[envelope.BlockSize]byte{}
	}
	o.pages[n] = pg
	return nil
}

// WritevAt writes to memory.
func (o *overlay) WritevAt(bufs [][]byte, off int64) (int, error) {
	done := 0
	for _, b := range bufs {
		n, err := o.WriteAt(b, off+int64(done))
		if done += n; err != nil {
			return done, err
		}
	}
	return done, nil
}

// Truncate changes the size in memory.
func (o *overlay) Truncate(size int64) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	was, err := o.length()
	if err != nil {
		return err
	}
	if size < was { // it is small: a first block
		for n := range (size + envelope.BlockSize - 1) / envelope.BlockSize {
			if err := o.load(n); err != nil {
				return err
			}
		}
		o.cut = true
	}
	for n, pg := range o.pages {
		switch at := size - n*envelope.BlockSize; {
		case at <= 0:
			delete(o.pages, n)
		case at < envelope.BlockSize:
			clear(pg[at:])
		}
	}
	o.size = size
	return nil
}

// Seek knows of no holes.
func (o *overlay) Seek(off int64, whence int) (int64, error) {
	o.mu.RLock()
	defer o.mu.RUnlock()
	size, err := o.length()
	switch {
	case err != nil:
		return 0, err
	case off >= size:
		return 0, syscall.ENXIO
	case whence == SeekHole:
		return size, nil
	}
	return off, nil
}

// Sync has nothing to do.
func (o *overlay) Sync() error { return nil }

// DataSync has nothing to do.
func (o *overlay) DataSync() error { return nil }
