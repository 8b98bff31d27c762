package powercut_test

import (
	"context"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"kmsfs/tests/internal/lab"
)

// blockSize is what of a write survives a power cut by itself, or sectorSize of it where blocks are torn.
const (
	blockSize  = 4096
	sectorSize = 512
	diskSize   = 1 << 30 // sparse; xfs wants 300 MB
)

// event is a write, or, without data, a flush: what was written before it is durable.
type event struct {
	off  int64
	data []byte
}

// disk is a block device that remembers all that was written to it: a file on a FUSE mount of this process, for losetup.
type disk struct {
	fs.Inode

	mu     sync.Mutex
	lies   bool             // it takes no notice of flushes
	blocks map[int64][]byte // the newest contents
	log    []event
}

var (
	_ = (fs.NodeOpener)((*disk)(nil))
	_ = (fs.NodeGetattrer)((*disk)(nil))
	_ = (fs.NodeSetattrer)((*disk)(nil))
	_ = (fs.NodeReader)((*disk)(nil))
	_ = (fs.NodeWriter)((*disk)(nil))
	_ = (fs.NodeFsyncer)((*disk)(nil))
	_ = (fs.NodeAllocater)((*disk)(nil))
)

func (d *disk) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	return nil, fuse.FOPEN_DIRECT_IO, 0
}

func (d *disk) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	out.Mode, out.Size = 0o600, diskSize
	return 0
}

func (d *disk) Setattr(_ context.Context, _ fs.FileHandle, _ *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	out.Mode, out.Size = 0o600, diskSize
	return 0
}

func (d *disk) Read(_ context.Context, _ fs.FileHandle, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(dest)
	for n := 0; n < len(dest); {
		at := off + int64(n)
		in := int(at % blockSize)
		take := min(blockSize-in, len(dest)-n)
		if b := d.blocks[at/blockSize]; b != nil {
			copy(dest[n:n+take], b[in:])
		}
		n += take
	}
	return fuse.ReadResultData(dest), 0
}

func (d *disk) Write(_ context.Context, _ fs.FileHandle, data []byte, off int64) (uint32, syscall.Errno) {
	d.mu.Lock()
	defer d.mu.Unlock()
	e := event{off, append([]byte(nil), data...)}
	d.log = append(d.log, e)
	e.apply(d.blocks, nil)
	return uint32(len(data)), 0
}

// Allocate refuses: a loop device that cannot discard writes zeros.
func (d *disk) Allocate(context.Context, fs.FileHandle, uint64, uint64, uint32) syscall.Errno {
	return syscall.EOPNOTSUPP
}

func (d *disk) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.lies {
		d.log = append(d.log, event{})
	}
	return 0
}

func (d *disk) lie(lies bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lies = lies
}

// now is the position in the log.
func (d *disk) now() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.log)
}

// events is the log so far.
func (d *disk) events() []event {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.log[:len(d.log):len(d.log)]
}

// apply writes e, or those sectors of it that keep says: it is asked for each number of bytes into the disk.
func (e event) apply(blocks map[int64][]byte, keep func(at int64) bool) {
	for n := 0; n < len(e.data); n += sectorSize {
		at := e.off + int64(n)
		if keep != nil && !keep(at) {
			continue
		}
		b := blocks[at/blockSize]
		if b == nil {
			b = make([]byte, blockSize)
			blocks[at/blockSize] = b
		}
		copy(b[at%blockSize:], e.data[n:n+sectorSize])
	}
}

// history replays the log: what is durable at a position, and what may have reached the disk beyond that.
type history struct {
	log     []event
	durable map[int64][]byte // up to flushed
	flushed int
}

// upTo moves on to position to, which never gets smaller.
func (h *history) upTo(to int) {
	last := h.flushed
	for i := h.flushed; i < to; i++ {
		if h.log[i].data == nil {
			last = i + 1
		}
	}
	for ; h.flushed < last; h.flushed++ {
		h.log[h.flushed].apply(h.durable, nil)
	}
}

// cut writes to image the disk as a power cut at position at may leave it: of what was not flushed each block, or each sector
// where torn says so, got there or not, in the order of the writes.
func (h *history) cut(image string, at int, torn bool, random *rand.Rand) error {
	h.upTo(at)
	blocks := make(map[int64][]byte, len(h.durable))
	for n, b := range h.durable {
		blocks[n] = b
	}
	unit := int64(blockSize)
	if torn {
		unit = sectorSize
	}
	percent := random.IntN(101) // now most are lost, now few
	for _, e := range h.log[h.flushed:at] {
		for n := e.off / blockSize; n <= (e.off+int64(len(e.data))-1)/blockSize && len(e.data) > 0; n++ {
			if b := blocks[n]; b != nil { // what is durable is not ours to change
				blocks[n] = append([]byte(nil), b...)
			}
		}
		kept := map[int64]bool{}
		e.apply(blocks, func(at int64) bool {
			k, known := kept[at/unit]
			if !known {
				k = random.IntN(100) < percent
				kept[at/unit] = k
			}
			return k
		})
	}
	f, err := os.Create(image)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(diskSize); err != nil {
		return err
	}
	for n, b := range blocks {
		if _, err := f.WriteAt(b, n*blockSize); err != nil {
			return err
		}
	}
	return nil
}

// loopDevice serves the disk and returns the loop device over it.
func (d *disk) loopDevice(t *testing.T) string {
	t.Helper()
	d.blocks = map[int64][]byte{}
	dir := lab.Subdir(t, lab.Dir(t), "device", 0o700)
	root := &fs.Inode{}
	server, err := fs.Mount(dir, root, &fs.Options{
		MountOptions: fuse.MountOptions{DirectMount: true, FsName: "disk", MaxWrite: 1 << 20, DisableXAttrs: true},
		OnAdd: func(ctx context.Context) {
			root.AddChild("disk", root.NewPersistentInode(ctx, d, fs.StableAttr{Mode: fuse.S_IFREG}), false)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Unmount(); err != nil {
			t.Errorf("unmount the disk: %v", err)
			_ = unix.Unmount(dir, unix.MNT_DETACH)
		}
	})
	return attach(t, dir+"/disk")
}

// attach makes a loop device of a file, until the end of the test.
func attach(t *testing.T, file string) string {
	t.Helper()
	out, err := exec.Command("losetup", "--find", "--show", "--direct-io=on", file).CombinedOutput()
	if err != nil {
		t.Skipf("losetup: %v: %s (loop devices are needed; in a container: --privileged)", err, out)
	}
	device := strings.TrimSpace(string(out))
	t.Cleanup(func() { lab.Run(t, "/", "losetup", "--detach", device) })
	return device
}
