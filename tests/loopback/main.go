// Command loopback mounts a directory on another through go-fuse and does nothing else: the measure of what FUSE and
// go-fuse cost by themselves, and the mount on which the tests are proved.
//
//	loopback [--writeback] [--allow-other] [--read-only] ORIGINAL MOUNT
//
// It serves until it is unmounted or gets SIGTERM.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

func main() {
	writeback := flag.Bool("writeback", false, "ask for WRITEBACK_CACHE and HANDLE_KILLPRIV_V2")
	other := flag.Bool("allow-other", false, "let every user in; the kernel checks permissions")
	readOnly := flag.Bool("read-only", false, "refuse every change")
	flag.Parse()
	if flag.NArg() != 2 {
		flag.Usage()
		os.Exit(2)
	}
	if err := serve(flag.Arg(0), flag.Arg(1), options(*writeback, *other, *readOnly)); err != nil {
		fmt.Fprintln(os.Stderr, "loopback: error:", err)
		os.Exit(1)
	}
}

func options(writeback, other, readOnly bool) *fs.Options {
	second := time.Second
	o := &fs.Options{AttrTimeout: &second, EntryTimeout: &second, NullPermissions: true}
	o.FsName, o.Name = "loopback", "loopback"
	o.DirectMount = os.Geteuid() == 0
	o.EnableLocks = true
	o.MountOptions.Options = []string{"default_permissions"}
	if readOnly {
		o.MountOptions.Options = append(o.MountOptions.Options, "ro")
		o.DirectMountFlags = syscall.MS_NOSUID | syscall.MS_NODEV | syscall.MS_RDONLY
	}
	o.AllowOther = other
	if writeback {
		o.ExtraCapabilities = fuse.CAP_WRITEBACK_CACHE | fuse.CAP_HANDLE_KILLPRIV_V2
	}
	return o
}

func serve(original, mount string, o *fs.Options) error {
	root, err := newRoot(original, o.ExtraCapabilities&fuse.CAP_WRITEBACK_CACHE != 0)
	if err != nil {
		return err
	}
	syscall.Umask(0) // the kernel has applied the caller's
	server, err := fs.Mount(mount, root, o)
	if err != nil {
		return err
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, os.Interrupt)
	go func() {
		for range stop {
			if err := server.Unmount(); err != nil {
				fmt.Fprintln(os.Stderr, "loopback: unmount:", err)
			}
		}
	}()
	server.Wait()
	return nil
}
