package vault_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"syscall"

	"kmsfs/fs/vault"
)

// fileNames are the files of an operation list.
var fileNames = []string{"a", "b", "c"}

// engine runs a list of operations on the files of vaults (several on one directory: shared) and on byte slices.
type engine struct {
	vaults  []*vault.Vault
	remount func() ([]*vault.Vault, error)
	chunk   int64
	files   map[string]*modelFile
	lax     bool     // calls fail: times may change
	renew   bool     // files get new data keys between the operations
	steps   []string // what was done, to be shown
}

type modelFile struct {
	data   []byte
	xattr  string
	exists bool
	looked int64 // the size that stat(2) told before it was read, set by readAll alone
}

// opSize is how many bytes of a list one operation takes.
const opSize = 6

// sizes are offsets and lengths where something changes.
func (e *engine) size(x, y byte) int64 {
	c := e.chunk
	table := []int64{0, 1, 100, 3967, 3968, 3969, 4095, 4096, 4097, c - 1, c, c + 1, 2 * c, 7 * c, 62 * c, 63 * c, 63*c + 1, 63*c + 4096, 64 * c, 126 * c}
	if c == 4096 {
		table = append(table, 3*63*c, 1<<20, 1<<20+17)
	}
	return max(0, table[int(x)%len(table)]+int64(y%5)-2)
}

// run does the operations in list, and returns the first disagreement with the model.
func (e *engine) run(list []byte) error {
	if e.files == nil {
		e.files = map[string]*modelFile{}
		for _, n := range fileNames {
			e.files[n] = &modelFile{}
		}
	}
	for ; len(list) >= opSize; list = list[opSize:] {
		if e.renew && len(e.steps)%3 == 2 {
			if err := e.reencrypt(list[:opSize]); err != nil {
				return fmt.Errorf("step %d, %s: %w", len(e.steps), e.steps[len(e.steps)-1], err)
			}
		}
		if err := e.op(list[:opSize]); err != nil {
			return fmt.Errorf("step %d, %s: %w", len(e.steps), e.steps[len(e.steps)-1], err)
		}
	}
	return nil
}

func (e *engine) note(format string, args ...any) {
	e.steps = append(e.steps, fmt.Sprintf(format, args...))
}

// node looks a file up, and makes it where there is none.
func (e *engine) node(v *vault.Vault, name string) (*vault.Node, error) {
	m := e.files[name]
	n, _, err := v.Lookup(v.Root(), name)
	if errors.Is(err, syscall.ENOENT) && !m.exists {
		m.exists = true
		n, _, err = v.Create(v.Root(), name, 0o644, who)
		if err == nil {
			v.Release(n)
		}
	}
	return n, err
}

func pattern(seed byte, n int64) []byte {
	p := make([]byte, n)
	r := rand.NewPCG(uint64(seed), uint64(n))
	for i := 0; i < len(p); i += 8 {
		x := r.Uint64() | 0x0101010101010101 // no zeros, which holes have
		for k := i; k < min(i+8, len(p)); k++ {
			p[k] = byte(x)
			x >>= 8
		}
	}
	return p
}

func (m *modelFile) grow(n int64) {
	if n > int64(len(m.data)) {
		m.data = append(m.data, make([]byte, n-int64(len(m.data)))...)
	}
}

func (m *modelFile) write(p []byte, off int64) {
	m.grow(off + int64(len(p)))
	copy(m.data[off:], p)
}

func (m *modelFile) truncate(n int64) {
	m.grow(n)
	m.data = m.data[:n:n]
}

func (m *modelFile) zero(off, n int64) {
	if off < int64(len(m.data)) {
		clear(m.data[off:min(off+n, int64(len(m.data)))])
	}
}

func (e *engine) op(b []byte) (err error) {
	code, name, v := b[0]%20, fileNames[int(b[1])%len(fileNames)], e.vaults[int(b[1]/16)%len(e.vaults)]
	off, length := e.size(b[2], b[3]), max(1, min(e.size(b[4], b[5]), 400_000))
	switch code {
	case 8:
		e.note("flush")
		return v.Flush()
	case 9:
		if b[2]%3 != 0 {
			break
		}
		e.note("remount")
		e.vaults, err = e.remount()
		return err
	}
	n, err := e.node(v, name)
	if err != nil {
		e.note("look up %s", name)
		return err
	}
	defer v.Forget(n, 1)
	m := e.files[name]
	switch code {
	case 0, 1, 2, 3:
		e.note("write %s %d at %d", name, length, off)
		p := pattern(b[5], length)
		_, err = v.Write(ctx, n, p, off, vault.KeepPrivileges)
		m.write(p, off)
	case 7:
		e.note("append %s %d", name, length)
		p := pattern(b[5], length)
		_, err = v.Write(ctx, n, p, int64(len(m.data)), vault.KeepPrivileges)
		m.write(p, int64(len(m.data)))
	case 4, 5:
		e.note("truncate %s %d", name, off)
		err = v.Truncate(ctx, n, off, vault.KeepPrivileges)
		m.truncate(off)
	case 6:
		mode := []uint32{3, 0x10, 0x11, 0, 1}[b[5]%5]
		length = max(1, e.size(b[4], 0))
		e.note("allocate %s mode %#x %d at %d", name, mode, length, off)
		err = v.Allocate(ctx, n, mode, off, length, vault.KeepPrivileges)
		if mode&1 == 0 {
			m.grow(off + length)
		}
		if mode > 1 {
			m.zero(off, length)
		}
	case 10:
		to := fileNames[int(b[4])%len(fileNames)]
		e.note("rename %s to %s", name, to)
		err = v.Rename(v.Root(), name, v.Root(), to, 0)
		if to != name {
			e.files[to], e.files[name] = m, &modelFile{}
		}
		return err
	case 11:
		e.note("unlink %s", name)
		err = v.Unlink(v.Root(), name)
		*m = modelFile{}
		return err
	case 12:
		e.note("setxattr %s", name)
		m.xattr = string(pattern(b[5], 1+int64(b[4])))
		err = v.Setxattr(ctx, n, "user.test", []byte(m.xattr), 0)
	case 13:
		src := fileNames[int(b[4])%len(fileNames)]
		if src == name || !e.files[src].exists {
			e.note("nothing")
			return nil
		}
		e.note("copy %d from %s to %s at %d", length, src, name, off)
		s, err := e.node(v, src)
		if err != nil {
			return err
		}
		defer v.Forget(s, 1)
		done, err := v.CopyRange(ctx, s, 0, n, off, length, vault.KeepPrivileges)
		if err != nil {
			return err
		}
		if want := min(length, int64(len(e.files[src].data))); done != want {
			return fmt.Errorf("copied %d, want %d", done, want)
		}
		if done > 0 {
			m.write(e.files[src].data[:done], off)
		}
	case 14:
		e.note("seek %s from %d", name, off)
		if err := e.seek(v, n, m, off); err != nil {
			return err
		}
	default:
		e.note("read %s", name)
	}
	if err != nil {
		return err
	}
	if off >= int64(len(m.data)) {
		off = 0
	}
	whole := len(e.steps)%5 == 0
	return e.compare(e.vaults[int(b[3]/8)%len(e.vaults)], name, off, length, whole)
}

// seek checks that between off and the data found there are but zeros, and zeros where a hole is found.
func (e *engine) seek(v *vault.Vault, n *vault.Node, m *modelFile, off int64) error {
	data, err := v.Seek(ctx, n, off, vault.SeekData)
	end := min(data, int64(len(m.data)))
	if errors.Is(err, syscall.ENXIO) {
		end, err = int64(len(m.data)), nil
	}
	if err != nil {
		return err
	}
	if off < end && len(bytes.Trim(m.data[off:end], "\x00")) > 0 {
		return fmt.Errorf("SEEK_DATA skips data before %d", end)
	}
	hole, err := v.Seek(ctx, n, off, vault.SeekHole)
	if off >= int64(len(m.data)) {
		if !errors.Is(err, syscall.ENXIO) {
			return fmt.Errorf("SEEK_HOLE past the end: %d, %v", hole, err)
		}
		return nil
	}
	if err != nil {
		return err
	}
	end = min(hole/e.chunk*e.chunk+e.chunk, int64(len(m.data)))
	if hole < off || hole > int64(len(m.data)) || len(bytes.Trim(m.data[hole:max(hole, end)], "\x00")) > 0 {
		return fmt.Errorf("SEEK_HOLE finds data at %d", hole)
	}
	return nil
}

// compare compares a file with the model: its size, and its content at off or all of it.
func (e *engine) compare(v *vault.Vault, name string, off, length int64, whole bool) error {
	n, _, err := v.Lookup(v.Root(), name)
	m := e.files[name]
	if !m.exists {
		if !errors.Is(err, syscall.ENOENT) {
			return fmt.Errorf("%s is there: %v", name, err)
		}
		return nil
	}
	if err != nil {
		return err
	}
	defer v.Forget(n, 1)
	if whole {
		off, length = 0, int64(len(m.data))+10
	}
	got := pattern(7, length)
	k, err := v.Read(ctx, n, got, off)
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	want := m.data[min(off, int64(len(m.data))):min(off+length, int64(len(m.data)))]
	if !bytes.Equal(got[:k], want) {
		i := 0
		for i < min(k, len(want)) && got[i] == want[i] {
			i++
		}
		return fmt.Errorf("read %d bytes of %s at %d, want %d; they differ at %d", k, name, off, len(want), off+int64(i))
	}
	if st, err := v.Attr(n); err != nil {
		return err
	} else if st.Size != int64(len(m.data)) {
		return fmt.Errorf("%s has %d bytes, want %d", name, st.Size, len(m.data))
	}
	if m.xattr != "" {
		if x, err := v.Getxattr(ctx, n, "user.test"); err != nil {
			return fmt.Errorf("attribute of %s: %w", name, err)
		} else if string(x) != m.xattr {
			return fmt.Errorf("attribute of %s differs", name)
		}
	}
	return nil
}

// compareAll compares all files in all vaults.
func (e *engine) compareAll() error {
	for _, v := range e.vaults {
		for _, name := range fileNames {
			if err := e.compare(v, name, 0, 0, true); err != nil {
				return err
			}
		}
	}
	return nil
}
