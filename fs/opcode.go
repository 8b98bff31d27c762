package fs

import (
	"strconv"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Operation codes of the FUSE protocol, uapi/linux/fuse.h. go-fuse keeps its own to itself.
const (
	opForget      = 2
	opSetAttr     = 4
	opSymlink     = 6
	opMknod       = 8
	opMkdir       = 9
	opUnlink      = 10
	opRmdir       = 11
	opRename      = 12
	opLink        = 13
	opOpen        = 14
	opRead        = 15
	opWrite       = 16
	opFsync       = 20
	opSetXAttr    = 21
	opRemoveXAttr = 24
	opFsyncDir    = 30
	opSetLkw      = 33
	opCreate      = 35
	opInterrupt   = 36
	opIoctl       = 39
	opBatchForget = 42
	opFallocate   = 43
	opRename2     = 45
	opLseek       = 46
	opCopyRange   = 47
	opSyncFS      = 50
	opTmpfile     = 51
	opCopyRange64 = 53
)

// opName returns the name of an operation, for the log.
func opName(code uint32) string {
	names := [...]string{1: "lookup", "forget", "getattr", "setattr", "readlink", "symlink", 8: "mknod", "mkdir", "unlink",
		"rmdir", "rename", "link", "open", "read", "write", "statfs", "release", 20: "fsync", "setxattr", "getxattr",
		"listxattr", "removexattr", "flush", "init", "opendir", "readdir", "releasedir", "fsyncdir", "getlk", "setlk",
		"setlkw", "access", "create", "interrupt", "bmap", "destroy", "ioctl", "poll", "notify_reply", "batch_forget",
		"fallocate", "readdirplus", "rename2", "lseek", "copy_file_range", 50: "syncfs", "tmpfile", "statx", "copy_file_range_64"}
	if code < uint32(len(names)) && names[code] != "" {
		return names[code]
	}
	return strconv.Itoa(int(code))
}

// trace logs one request: what, on which node, for how long, and how it ended. Names and data stay out of it.
func (s *Server) trace(in *fuse.InHeader, out *fuse.OutHeader, answered bool, took time.Duration) {
	attrs := []any{"op", opName(in.Opcode), "node", in.NodeId, "uid", in.Uid, "pid", in.Pid, "took", took}
	if answered && out.Status < 0 {
		attrs = append(attrs, "errno", unix.ErrnoName(unix.Errno(-out.Status)))
	}
	s.log.Debug("request", attrs...)
}
