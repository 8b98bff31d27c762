package tree

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
)

// Names of files that are being written. One that is left over from a process that died is removed by the next
// synchronization of its directory.
const (
	tempPrefix = ".kmsfs-"
	tempSuffix = ".part"
)

// IsTemp says whether name is one that Put gives to what it writes.
func IsTemp(name string) bool {
	return len(name) == len(tempPrefix)+16+len(tempSuffix) && strings.HasPrefix(name, tempPrefix) && strings.HasSuffix(name, tempSuffix)
}

func tempName() string {
	var b [8]byte
	rand.Read(b[:])
	return tempPrefix + hex.EncodeToString(b[:]) + tempSuffix
}

// Put makes name in d a regular file, or something else that fill makes under the name that it is given: it takes the place of
// name, which may be there, when fill has returned. After an error or a crash name is what it was.
func Put(d backing.Dir, name string, fill func(temp string) error) error {
	temp := tempName()
	err := fill(temp)
	if err == nil {
		err = d.Rename(temp, d, name, 0)
	}
	if err != nil {
		d.Unlink(temp) // which may not have been made
	}
	return err
}

// PutFile is Put of a regular file, whose content, owner and the like fill sets.
func PutFile(d backing.Dir, name string, fill func(f backing.File) error) error {
	return Put(d, name, func(temp string) error {
		f, err := d.Open(temp, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		err = fill(f)
		if e := f.Close(); err == nil {
			err = e
		}
		return err
	})
}

// blockSize is how much is read and written at once.
const blockSize = 1 << 20

// Copier copies the contents of files. The zero value is ready; it is safe for concurrent use.
type Copier struct {
	// Progress is told of bytes that are done, holes among them; nil: nobody is.
	Progress func(bytes int64)
	pool     sync.Pool // of *[]byte, of blockSize
}

func (c *Copier) get() *[]byte {
	if b, ok := c.pool.Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, blockSize)
	return &b
}

func (c *Copier) done(n int64) {
	if c.Progress != nil && n > 0 {
		c.Progress(n)
	}
}

// Copy copies the content of src, size bytes, to dst, which is empty. Holes stay holes.
func (c *Copier) Copy(ctx context.Context, dst, src backing.File, size int64) error {
	list, err := Extents(src, size)
	if err != nil {
		return err
	}
	end := int64(0)
	for _, e := range list {
		c.done(e.Off - end)
		if err := c.copyExtent(ctx, dst, src, e); err != nil {
			return err
		}
		end = e.Off + e.Len
	}
	if end < size {
		c.done(size - end)
		return dst.Truncate(size)
	}
	return nil
}

// block is a piece of a file on its way.
type block struct {
	buf *[]byte
	n   int
	off int64
	err error
}

func (c *Copier) copyExtent(ctx context.Context, dst, src backing.File, e Extent) error {
	return c.read(ctx, src, e, func(p []byte, off int64) error {
		_, err := dst.WriteAt(p, off)
		return err
	})
}

// Stream writes a range of src to w. After an error the first bytes of it have been written.
func (c *Copier) Stream(ctx context.Context, w io.Writer, src backing.File, e Extent) error {
	return c.read(ctx, src, e, func(p []byte, _ int64) error {
		_, err := w.Write(p)
		return err
	})
}

// read hands a range of src to emit piece by piece, and reads ahead of it.
func (c *Copier) read(ctx context.Context, src backing.File, e Extent, emit func(p []byte, off int64) error) error {
	if e.Len <= blockSize {
		buf := c.get()
		defer c.pool.Put(buf)
		n, err := readFull(src, (*buf)[:e.Len], e.Off)
		if err == nil {
			err = emit((*buf)[:n], e.Off)
			c.done(int64(n))
		}
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	blocks := make(chan block, 2)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		defer close(blocks)
		for off, to := e.Off, e.Off+e.Len; off < to; {
			b := block{buf: c.get(), off: off}
			b.n, b.err = readFull(src, (*b.buf)[:min(blockSize, to-off)], off)
			select {
			case blocks <- b:
			case <-ctx.Done():
				return
			}
			if b.err != nil {
				return
			}
			off += int64(b.n)
		}
	})
	for b := range blocks {
		err := b.err
		if err == nil {
			err = emit((*b.buf)[:b.n], b.off)
		}
		c.pool.Put(b.buf)
		if err != nil {
			return err
		}
		c.done(int64(b.n))
	}
	return context.Cause(ctx)
}

// ErrSource marks an error of what is copied from; errors of what is copied to have no mark.
var ErrSource = errors.New("source")

// OfSource marks err, if it is one.
func OfSource(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrSource, err)
}

// errShort is a file that got shorter while it was read.
func errShort(off int64) error {
	return fmt.Errorf("the file was cut off at %d bytes while it was read: %w", off, io.ErrUnexpectedEOF)
}

// readFull reads all of p; it is an error if the file is shorter.
func readFull(f backing.File, p []byte, off int64) (int, error) {
	n, err := f.ReadAt(p, off)
	if err == nil && n < len(p) {
		err = errShort(off + int64(n))
	}
	return n, err
}

// pieceSize is the unit in which Patch writes: a chunk of most vaults.
const pieceSize = 4096

// Patch makes the content of dst that of src, size bytes, in place, and writes only what differs. It returns how much that was.
// After an error dst has some of both; an error of src is an ErrSource.
func (c *Copier) Patch(ctx context.Context, dst, src backing.File, size int64) (written int64, err error) {
	st, err := dst.Stat()
	if err != nil {
		return 0, err
	}
	if st.Size != size {
		if err := dst.Truncate(size); err != nil {
			return 0, err
		}
	}
	list, err := Extents(src, size)
	if err != nil {
		return 0, OfSource(err)
	}
	a, b := c.get(), c.get()
	defer c.pool.Put(a)
	defer c.pool.Put(b)
	end := int64(0)
	for _, e := range append(list, Extent{size, 0}) {
		n, err := c.punch(dst, Extent{end, e.Off - end}, *a)
		if written += n; err != nil {
			return written, err
		}
		for off, to := e.Off, e.Off+e.Len; off < to; {
			if err := context.Cause(ctx); err != nil {
				return written, err
			}
			p, q := (*a)[:min(blockSize, to-off)], (*b)[:min(blockSize, to-off)]
			if _, err := readFull(src, p, off); err != nil {
				return written, OfSource(err)
			}
			if _, err := readFull(dst, q, off); err != nil {
				return written, err
			}
			n, err := writeDifference(dst, p, q, off)
			if written += n; err != nil {
				return written, err
			}
			c.done(int64(len(p)))
			off += int64(len(p))
		}
		end = e.Off + e.Len
	}
	return written, nil
}

// writeDifference writes the pieces of p that q differs in.
func writeDifference(dst backing.File, p, q []byte, off int64) (written int64, err error) {
	for i := 0; i < len(p); {
		j := i
		for j < len(p) && !bytes.Equal(p[j:min(j+pieceSize, len(p))], q[j:min(j+pieceSize, len(p))]) {
			j = min(j+pieceSize, len(p))
		}
		if j > i {
			if _, err := dst.WriteAt(p[i:j], off+int64(i)); err != nil {
				return written, err
			}
			written += int64(j - i)
		}
		i = j + pieceSize
	}
	return written, nil
}

// punch makes a hole of e where dst has data there; buf is to work with.
func (c *Copier) punch(dst backing.File, e Extent, buf []byte) (written int64, err error) {
	c.done(e.Len)
	for off, to := e.Off, e.Off+e.Len; off < to; {
		from, err := dst.Seek(off, unix.SEEK_DATA)
		if errors.Is(err, syscall.ENXIO) || from >= to {
			break
		}
		if err != nil {
			from = off
		}
		n, err := readFull(dst, buf[:min(int64(len(buf)), to-from)], from)
		if err != nil {
			return written, err
		}
		if !envelope.IsZero(buf[:n]) {
			if err := dst.Allocate(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, from, int64(n)); err != nil {
				clear(buf[:n])
				if _, err := dst.WriteAt(buf[:n], from); err != nil { // a file system without holes
					return written, err
				}
			}
			written += int64(n)
		}
		off = from + int64(n)
	}
	return written, nil
}

// Same says whether two files of size bytes have the same content. It reads both; an error of src is an ErrSource.
func (c *Copier) Same(ctx context.Context, src, dst backing.File, size int64) (bool, error) {
	a, b := c.get(), c.get()
	defer c.pool.Put(a)
	defer c.pool.Put(b)
	for off := int64(0); off < size; off += blockSize {
		if err := context.Cause(ctx); err != nil {
			return false, err
		}
		p, q := (*a)[:min(blockSize, size-off)], (*b)[:min(blockSize, size-off)]
		if _, err := readFull(src, p, off); err != nil {
			return false, OfSource(err)
		}
		if _, err := readFull(dst, q, off); err != nil {
			return false, err
		}
		if !bytes.Equal(p, q) {
			return false, nil
		}
	}
	return true, nil
}
