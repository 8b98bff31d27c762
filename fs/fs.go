// Package fs shows a vault as a FUSE file system: it decodes a request, calls one method of the vault, fills in the
// reply and maps the error. It knows nothing of encryption or of what the vault looks like on the disk.
//
// Start with [Mount]. SEMANTICS.md says what each operation does and what the kernel caches.
package fs

import (
	"context"
	"io"
	"log"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"kmsfs/fs/vault"
)

// The types of a mount, in mount(8): of a vault, and of a directory in reverse.
const (
	fsType      = "kmsfs"
	reverseType = "kmsfs-reverse"
)

// Options of a mount. The zero value is a private mount that nothing but its owner sees.
type Options struct {
	// Source is shown as the device in mount(8); "": kmsfs.
	Source string
	// subtype is the type of the mount behind "fuse.".
	subtype string
	// AllowOther lets other users in; the kernel then checks permissions, POSIX ACLs among them.
	AllowOther bool
	// ReadOnly makes the kernel refuse changes.
	ReadOnly bool
	// Suid, Dev and NoExec are the mount flags of those names; set-uid bits and devices work only where asked for.
	Suid, Dev, NoExec bool
	// NoSpin makes the server sleep at once when there is nothing to do: less power, slower small operations.
	NoSpin bool
	// ReadAhead is how far the kernel reads ahead, in bytes; 0: 1 MiB where this process may set it.
	ReadAhead int
	// Deadline bounds how long an operation waits for the keysource; 0: 30 s.
	Deadline time.Duration
	// Idle, if not nil, is called when no request has come for some seconds after some had.
	Idle func()
	// HungAfter is how long a request may take before the log tells of it; 0: 30 s.
	HungAfter time.Duration
	// Log gets what an operator should know, and every operation at debug level; nil: nothing is logged.
	Log *slog.Logger
}

// mountFlags returns the flags of mount(2).
func (o *Options) mountFlags() uintptr {
	var f uintptr
	for _, x := range []struct {
		on   bool
		flag uintptr
	}{{o.ReadOnly, unix.MS_RDONLY}, {!o.Suid, unix.MS_NOSUID}, {!o.Dev, unix.MS_NODEV}, {o.NoExec, unix.MS_NOEXEC}} {
		if x.on {
			f |= x.flag
		}
	}
	return f
}

// mountOptions returns the same for fusermount3.
func (o *Options) mountOptions() []string {
	var s []string
	for _, x := range []struct {
		on   bool
		name string
	}{{o.ReadOnly, "ro"}, {!o.Suid, "nosuid"}, {!o.Dev, "nodev"}, {o.NoExec, "noexec"}} {
		if x.on {
			s = append(s, x.name)
		}
	}
	return s
}

// base is what every translation has.
type base struct {
	fuse.RawFileSystem
	log      *slog.Logger
	debug    bool
	deadline time.Duration
	failures failures
	statfs   func() error // of the file system that holds what is shown
}

func (b *base) start(o Options) {
	b.RawFileSystem, b.log, b.deadline = fuse.NewDefaultRawFileSystem(), o.Log, o.Deadline
	b.debug = o.Log.Enabled(context.Background(), slog.LevelDebug)
}

// filesystem is the translation. One vault method a request.
type filesystem struct {
	base
	v        *vault.Vault
	acl      bool          // POSIX ACLs are on
	cached   bool          // exclusive: the kernel caches, and opens without asking
	timeout  time.Duration // of entries, attributes and negative entries
	handles  atomic.Uint64 // of open files, on shared mounts
	listings listings
	server   *Server // for notifications to the kernel; set before the first request
}

// exclusiveTimeout is how long the kernel may believe what it knows while this mount is the only one.
const exclusiveTimeout = time.Hour

// Mount shows v on dir. When it returns without an error, the mount answers.
func Mount(v *vault.Vault, dir string, o Options) (*Server, error) {
	o.complete()
	raw := &filesystem{v: v, acl: o.AllowOther, cached: !v.Shared()}
	raw.start(o)
	raw.statfs = func() error { _, err := v.Statfs(); return err }
	if raw.cached {
		raw.timeout = exclusiveTimeout
	}
	s, err := serveOn(dir, raw, &raw.base, raw.options(), o)
	if err != nil {
		return nil, err
	}
	raw.server = s
	v.OnRefused(func(n *vault.Node) { s.dropLater(n.ID()) })
	return s.begin(o)
}

// complete fills in the defaults.
func (o *Options) complete() {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Source == "" {
		o.Source = "kmsfs"
	}
	if o.subtype == "" {
		o.subtype = fsType
	}
	if o.Deadline == 0 {
		o.Deadline = 30 * time.Second
	}
	if o.HungAfter == 0 {
		o.HungAfter = hungAfter
	}
	if o.ReadAhead == 0 {
		o.ReadAhead = 1 << 20
	}
}

// begin answers requests from now on.
func (s *Server) begin(o Options) (*Server, error) {
	go s.run()
	// The kernel knows which device it is without asking this process, which would never end if it were killed meanwhile: it would
	// wait for an answer of its own, with the device open.
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, s.dir, unix.AT_STATX_DONT_SYNC|unix.AT_NO_AUTOMOUNT, 0, &st); err != nil {
		s.UnmountLazily()
		return nil, &os.PathError{Op: "statx", Path: s.dir, Err: err}
	}
	setReadAhead(&st, o.ReadAhead, o.Log)
	return s, nil
}

// options says what is asked of the kernel; SEMANTICS.md has the duties that each brings.
func (fs *filesystem) options() *fuse.MountOptions {
	o := fs.requests()
	o.EnableAcl = fs.acl
	o.ExtraCapabilities = fuse.CAP_HANDLE_KILLPRIV_V2 | fuse.CAP_READDIRPLUS_AUTO | fuse.CAP_DONT_MASK | fuse.CAP_ASYNC_DIO | fuse.CAP_IOCTL_DIR
	if fs.cached {
		o.ExtraCapabilities |= fuse.CAP_WRITEBACK_CACHE
		o.EnableSymlinkCaching = true
		o.ExplicitDataCacheControl = true
	} else {
		o.ExtraCapabilities |= fuse.CAP_ATOMIC_O_TRUNC
		o.DisabledCapabilities = fuse.CAP_NO_OPEN_SUPPORT
		o.EnableLocks = true
	}
	return o
}

// requests are the options of every mount.
func (b *base) requests() *fuse.MountOptions {
	return &fuse.MountOptions{
		MaxWrite: maxRequest, MaxReadAhead: maxRequest, MaxBackground: 64,
		Logger:       log.New(io.Discard, "", 0),
		PanicHandler: func(v any) fuse.Status { panic(v) }, // worker.recovered, which knows the request, takes it
	}
}

// String names the file system in go-fuse's messages.
func (b *base) String() string { return "kmsfs" }
