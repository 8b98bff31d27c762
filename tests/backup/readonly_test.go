package backup

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kmsfs/tests/internal/lab"
)

// TestReadOnlyMedia: a vault and its key store on media that cannot be written to are mounted with --read-only, and for writing
// refused with the command to give; also where the vault was copied while mounted and has a journal.
func TestReadOnlyMedia(t *testing.T) {
	t.Parallel()
	lab.NeedRoot(t)
	b := newBench(t)
	b.mkdir("media") // what goes on each medium
	b.script(`mv vault keys media`)
	vault, keys := b.at("media/vault"), b.at("media/keys")
	live := b.mount(vault, "--key-store", keys)
	plant(t, live)
	over := filepath.Join(live, "written over")
	old := strings.Repeat("old ", 50_000)
	write(t, over, old, 0)
	b.ok("ctl", "flush", live)
	write(t, over, "new", 100_000) // stands in the journal for 5 s
	b.script(`cp -r media/vault media/mounted; cp -r media/mounted bare; rm -r bare/.kmsfs/journal`)
	want := contents(t, live, nil)
	b.umount(live)

	bare := b.mount(b.at("bare"), "--read-only", "--key-store", keys)
	if text, err := os.ReadFile(filepath.Join(bare, "written over")); err != nil || string(text) != old {
		t.Errorf("the copy without its journal: %v; the test shows nothing unless it has the old text", err)
	}
	b.umount(bare)

	for _, m := range []struct {
		name  string
		mount func(b *bench, dir string) // media, on the directory
	}{{"ext4", (*bench).ext4Image}, {"squashfs", (*bench).squashfs}, {"restic", (*bench).resticMount}} {
		t.Run(m.name, func(t *testing.T) {
			b := b.in(t)
			dir := b.mkdir(m.name)
			m.mount(b, dir)
			at := dir
			if m.name == "restic" {
				at = filepath.Join(dir, "snapshots/latest")
			}
			if err := os.WriteFile(filepath.Join(at, "x"), nil, 0o600); !errors.Is(err, syscall.EROFS) {
				t.Fatalf("the medium can be written to: %v", err)
			}
			empty := b.mkdir(m.name + ".mount")
			for _, name := range []string{"vault", "mounted"} {
				vault, keys := filepath.Join(at, name), filepath.Join(at, "keys")
				for _, flag := range []string{"--read-only=false", "--shared"} {
					b.fails(22, "kmsfs mount --read-only ", "mount", flag, "--key-store", keys, vault, empty)
				}
				got := b.mount(vault, "--read-only", "--key-store", keys)
				compare(t, name, contents(t, got, nil), want)
				if err := os.WriteFile(filepath.Join(got, "x"), nil, 0o600); !errors.Is(err, syscall.EROFS) {
					t.Errorf("write: %v", err)
				}
				b.umount(got) // and has logged nothing
				b.ok("freeze", vault, "--", "true")
				b.ok("status", vault)
			}
		})
	}
}

// write writes text into a file, durably for who writes.
func write(t *testing.T, path, text string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err == nil {
		_, err = f.WriteAt([]byte(text), at)
		err = errors.Join(err, f.Sync(), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// ext4Image is an ext4 in a loop device, filled with media and then read-only.
func (b *bench) ext4Image(dir string) {
	lab.Need(b.t, "mkfs.ext4")
	image := dir + ".image"
	b.script(`truncate -s 64M "$IMAGE"; mkfs.ext4 -q -F "$IMAGE"; mount -o loop "$IMAGE" "$DIR"; cp -a media/. "$DIR"; mount -o remount,ro "$DIR"`,
		"IMAGE="+image, "DIR="+dir)
	unmountLater(b.t, dir)
}

// squashfs is a squashfs of media.
func (b *bench) squashfs(dir string) {
	lab.Need(b.t, "mksquashfs")
	b.script(`mksquashfs media "$IMAGE" -quiet -no-progress; mount -o loop "$IMAGE" "$DIR"`, "IMAGE="+dir+".image", "DIR="+dir)
	unmountLater(b.t, dir)
}

// resticMount is restic's own mount of a snapshot of media.
func (b *bench) resticMount(dir string) {
	t := b.t
	lab.Need(t, "restic", "fusermount")
	repo := dir + ".repo"
	b.script(`restic -q -r "$REPO" init; cd media; restic -q -r "$REPO" backup .`, "REPO="+repo)
	cmd := exec.Command("restic", "-q", "-r", repo, "mount", dir)
	cmd.Env = b.env()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("fusermount", "-u", dir).CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
			_ = cmd.Process.Kill()
		}
		_ = cmd.Wait()
	})
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if _, err := os.Stat(dir + "/snapshots/latest/vault"); err == nil {
			return
		} else if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// unmountLater unmounts dir at the end of the test.
func unmountLater(t *testing.T, dir string) {
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("umount %s: %v", dir, err)
			_ = unix.Unmount(dir, unix.MNT_DETACH)
		}
	})
}
