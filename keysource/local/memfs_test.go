package local

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"syscall"
)

// errCrashed is what every call answers after the crash.
var errCrashed = errors.New("the machine is down")

// memFS is a disk in memory that knows what is durable and what is not. It can crash before any call, and can fail
// any one call.
type memFS struct {
	mu      sync.Mutex
	calls   int
	crashAt int   // the machine goes down before this call, counted from 1; 0 never
	failAt  int   // this call fails
	failErr error // with this
	late    bool  // the failing call has its effect all the same
	corrupt bool  // writes report success and store something else

	names   map[string]*memNode // as processes see it
	durable map[string]*memNode // as the disk has it
	pending []dirOp             // between the two, in order
	locks   map[string]bool
}

// memNode is a file, or a directory where dir is set.
type memNode struct {
	dir             bool
	content, synced []byte
	uid, gid        int
}

// dirOp is a change of names in a directory that is not durable yet: all of it becomes so at once.
type dirOp struct {
	dir    string
	remove string
	add    string
	node   *memNode
}

func newMemFS() *memFS {
	return &memFS{names: map[string]*memNode{"/": {dir: true}}, durable: map[string]*memNode{"/": {dir: true}},
		locks: map[string]bool{}}
}

// step counts a call; an error means that the call fails, effect whether it happens all the same.
func (m *memFS) step() (effect bool, err error) {
	m.calls++
	switch {
	case m.crashAt > 0 && m.calls >= m.crashAt:
		return false, errCrashed
	case m.failAt > 0 && m.calls == m.failAt:
		return m.late, m.failErr
	}
	return true, nil
}

// crash returns the disk after a power cut: any subset of the changes of names that were not durable, and of each file
// that was not synced the old, the new, no or zeroed content.
func (m *memFS) crash(r *rand.Rand) *memFS {
	m.mu.Lock()
	defer m.mu.Unlock()
	after := newMemFS()
	names := make(map[string]*memNode)
	for name, node := range m.durable {
		names[name] = node
	}
	for _, op := range m.pending {
		if r.IntN(2) == 0 {
			op.apply(names)
		}
	}
	for name, node := range names {
		lost := false // with a directory above it
		for dir := filepath.Dir(name); dir != "/"; dir = filepath.Dir(dir) {
			lost = lost || names[dir] == nil
		}
		if lost {
			continue
		}
		c := *node
		if !bytes.Equal(node.content, node.synced) || node.synced == nil {
			switch r.IntN(4) {
			case 0:
				c.content = node.synced
			case 1:
				c.content = nil
			case 2:
				c.content = make([]byte, len(node.content))
			}
		}
		c.synced = c.content
		after.names[name], after.durable[name] = &c, &c
	}
	return after
}

func (op dirOp) apply(names map[string]*memNode) {
	if op.remove != "" {
		delete(names, op.remove)
	}
	if op.add != "" {
		names[op.add] = op.node
	}
}

// change makes a change of names.
func (m *memFS) change(op dirOp) {
	op.apply(m.names)
	m.pending = append(m.pending, op)
}

func (m *memFS) Mkdir(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	effect, err := m.step()
	if !effect {
		return err
	}
	if m.names[name] != nil {
		return fs.ErrExist
	}
	if m.names[filepath.Dir(name)] == nil {
		return fs.ErrNotExist
	}
	m.change(dirOp{dir: filepath.Dir(name), add: name, node: &memNode{dir: true}})
	return err
}

func (m *memFS) Open(name string, _ linkPolicy) (file, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if effect, err := m.step(); !effect || err != nil {
		return nil, err
	}
	node := m.names[name]
	if node == nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return &memFile{fs: m, node: node}, nil
}

func (m *memFS) Create(name string) (file, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	effect, err := m.step()
	if !effect {
		return nil, err
	}
	if m.names[name] != nil {
		return nil, fs.ErrExist
	}
	node := &memNode{}
	m.change(dirOp{dir: filepath.Dir(name), add: name, node: node})
	if err != nil {
		return nil, err
	}
	return &memFile{fs: m, node: node}, nil
}

func (m *memFS) Rename(oldName, newName string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	effect, err := m.step()
	if !effect {
		return err
	}
	node := m.names[oldName]
	if node == nil {
		return fs.ErrNotExist
	}
	m.change(dirOp{dir: filepath.Dir(newName), remove: oldName, add: newName, node: node})
	return err
}

func (m *memFS) RenameNew(oldName, newName string) error {
	m.mu.Lock()
	exists := m.names[newName] != nil
	m.mu.Unlock()
	if exists {
		return fs.ErrExist
	}
	return m.Rename(oldName, newName)
}

func (m *memFS) Remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	effect, err := m.step()
	if !effect {
		return err
	}
	if m.names[name] == nil {
		return fs.ErrNotExist
	}
	m.change(dirOp{dir: filepath.Dir(name), remove: name})
	return err
}

func (m *memFS) SyncDir(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	effect, err := m.step()
	if !effect {
		return err
	}
	var rest []dirOp
	for _, op := range m.pending {
		if op.dir == name {
			op.apply(m.durable)
		} else {
			rest = append(rest, op)
		}
	}
	m.pending = rest
	return err
}

func (m *memFS) TryLock(name string) (io.Closer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if effect, err := m.step(); !effect || err != nil {
		return nil, err
	}
	if m.locks[name] {
		return nil, errBusy
	}
	m.locks[name] = true
	return closer(func() { m.mu.Lock(); delete(m.locks, name); m.mu.Unlock() }), nil
}

func (m *memFS) UserID() int { return 0 }

type closer func()

func (c closer) Close() error { c(); return nil }

// memFile is an open file.
type memFile struct {
	fs   *memFS
	node *memNode
	off  int
}

func (f *memFile) Read(p []byte) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if effect, err := f.fs.step(); !effect || err != nil {
		return 0, err
	}
	if f.off >= len(f.node.content) {
		return 0, io.EOF
	}
	n := copy(p, f.node.content[f.off:])
	f.off += n
	return n, nil
}

func (f *memFile) Write(p []byte) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	effect, err := f.fs.step()
	if !effect {
		if errors.Is(err, syscall.ENOSPC) {
			f.node.content = append(f.node.content, p[:len(p)/2]...)
			return len(p) / 2, err
		}
		return 0, err
	}
	f.node.content = append(f.node.content, p...)
	if f.fs.corrupt {
		f.node.content[len(f.node.content)-1] ^= 1
	}
	return len(p), err
}

func (f *memFile) Stat() (fileInfo, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if effect, err := f.fs.step(); !effect || err != nil {
		return fileInfo{}, err
	}
	return fileInfo{mode: 0o600, uid: f.node.uid, gid: f.node.gid}, nil
}

func (f *memFile) Chown(uid, gid int) error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	f.node.uid, f.node.gid = uid, gid
	return nil
}

func (f *memFile) Sync() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	effect, err := f.fs.step()
	if !effect {
		return err
	}
	f.node.synced = bytes.Clone(f.node.content)
	if f.node.synced == nil {
		f.node.synced = []byte{}
	}
	return err
}

func (f *memFile) Close() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	_, err := f.fs.step()
	return err
}
