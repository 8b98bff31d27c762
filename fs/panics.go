package fs

import (
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"kmsfs/fs/vault/bug"
)

// recovered is deferred around the handling of one request: whoever waits for the answer gets EIO, and the mount lives on.
// It sets the length of the answer.
func (w *worker) recovered(in *fuse.InHeader, length *int) {
	v := recover()
	if v == nil {
		return
	}
	failed := &w.s.base.failures
	failed.panics.Add(1)
	failed.count(fuse.EIO, nil)
	w.s.log.Error("a bug: the request fails with EIO", append([]any{"op", opName(in.Opcode), "node", in.NodeId}, bug.Attrs(v)...)...)
	switch in.Opcode {
	case opForget, opBatchForget, opInterrupt: // nobody waits
		*length = 0
		return
	}
	out := (*fuse.OutHeader)(unsafe.Pointer(&w.out[0]))
	*out = fuse.OutHeader{Length: uint32(unsafe.Sizeof(*out)), Status: -int32(unix.EIO), Unique: in.Unique}
	*length = int(out.Length)
}
