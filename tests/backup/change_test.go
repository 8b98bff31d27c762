package backup

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"kmsfs/tests/internal/lab"
)

// seen is what a backup tool looks at to know whether a stored file has changed, and its content.
type seen struct {
	stat    string
	content string
}

// storedState looks at all below dir.
func storedState(t *testing.T, dir string) map[string]seen {
	t.Helper()
	all := map[string]seen{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		i, err := e.Info()
		if err != nil {
			return err
		}
		text, err := describe(path)
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		st := i.Sys().(*syscall.Stat_t)
		all[rel] = seen{fmt.Sprint(st.Ino, st.Mode, st.Nlink, st.Uid, st.Size, st.Mtim, st.Ctim), text}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// changed are the paths that are not as they were.
func changed(before, after map[string]seen) (paths []string) {
	for path, was := range before {
		if after[path] != was {
			paths = append(paths, path)
		}
	}
	for path := range after {
		if before[path] == (seen{}) {
			paths = append(paths, path)
		}
	}
	return paths
}

// TestUnchanged: a vault that was mounted and read, for writing or not, is what it was: bytes, times, inodes, of all that is stored,
// .kmsfs too.
func TestUnchanged(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	live := b.mount(b.at("vault"))
	plant(t, live)
	b.umount(live)
	before := storedState(t, b.at("vault"))
	for _, flags := range [][]string{nil, {"--shared"}, {"--read-only"}} {
		live = b.mount(b.at("vault"), flags...)
		contents(t, live, nil)
		time.Sleep(100 * time.Millisecond)
		b.umount(live)
		for _, path := range changed(before, storedState(t, b.at("vault"))) {
			t.Errorf("mounted with %v: %s has changed", flags, path)
		}
	}
	b.ok("freeze", b.at("vault"), "--", "true")
	b.ok("rewrap", b.at("vault")) // nothing to do
	for _, path := range changed(before, storedState(t, b.at("vault"))) {
		if path != ".kmsfs" && path != ".kmsfs/keys.lock" { // made at need
			t.Errorf("freeze and rewrap with nothing to do: %s has changed", path)
		}
	}
}

// TestRewrapChanges: a rewrap changes vault.json, key tables, and nothing else.
func TestRewrapChanges(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	live := b.mount(b.at("vault"))
	plant(t, live)
	b.umount(live)
	before := storedState(t, b.at("vault"))
	b.ok("key", "rotate", "--key-store", b.at("keys"), "alias/files")
	b.ok("rewrap", b.at("vault"))
	tables := 0
	for _, path := range changed(before, storedState(t, b.at("vault"))) {
		switch {
		case strings.HasPrefix(path, ".kmsfs/keys/"):
			tables++
		case path == ".kmsfs/keys", path == ".kmsfs": // the directories, as what is in them was renamed
		case path == ".kmsfs/vault.json", path == ".kmsfs/keys.lock":
		default:
			t.Errorf("%s has changed", path)
		}
	}
	if tables == 0 {
		t.Error("no key table has changed")
	}
}

// TestSmallChange: 4 KiB written over in a large file change one chunk and its index block; rsync and restic send little more. The
// size is KMSFS_TEST_MIB.
func TestSmallChange(t *testing.T) {
	t.Parallel()
	lab.Need(t, "rsync", "restic")
	mib := int64(lab.Sized(256, 64))
	if n, err := strconv.ParseInt(os.Getenv("KMSFS_TEST_MIB"), 10, 64); err == nil {
		mib = n
	}
	size := mib << 20
	b := newBench(t)
	live := b.mount(b.at("vault"))
	fill(t, filepath.Join(live, "large"), size)
	b.umount(live)
	restic := func() (added int64) {
		out := b.script(`test -d repo || restic -q -r repo init; cd vault; restic -r ../repo backup --json --compression off . | tail -n 1`)
		var summary struct {
			Added int64 `json:"data_added"`
		}
		b.json(out, &summary)
		return summary.Added
	}
	literal := regexp.MustCompile(`Literal data: ([\d,]+) bytes`)
	rsync := func() (sent int64) {
		out := b.script(`rsync -a --inplace --no-whole-file --stats vault/ copy/`)
		n, err := strconv.ParseInt(strings.ReplaceAll(literal.FindStringSubmatch(out)[1], ",", ""), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	rsync()
	first := restic()

	live = b.mount(b.at("vault"))
	f, err := os.OpenFile(filepath.Join(live, "large"), os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt(bytes.Repeat([]byte("new "), 1024), size/2&^4095)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	b.umount(live)

	name := largest(t, b.at("vault"))
	if n := differing(t, filepath.Join(b.at("vault"), name), filepath.Join(b.at("copy"), name)); n != 2 {
		t.Errorf("%d blocks of 4096 bytes have changed, want the chunk and its index block", n)
	}
	added := restic()
	sent := rsync()
	if n := differing(t, filepath.Join(b.at("vault"), name), filepath.Join(b.at("copy"), name)); n != 0 {
		t.Errorf("rsync left %d blocks as they were", n)
	}
	t.Logf("%d MiB, 4 KiB written over: rsync sends %d bytes; restic adds %d, at first %d", mib, sent, added, first)
	if most := int64(2 << 17); sent > most { // rsync's blocks have up to 128 KiB
		t.Errorf("rsync sends %d bytes, want at most %d", sent, most)
	}
	if added > 20<<20 { // restic's have up to 8 MiB
		t.Errorf("restic adds %d bytes", added)
	}
}

// fill makes a file of random bytes.
func fill(t *testing.T, path string, size int64) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.CopyN(f, rand.Reader, size)
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// largest is the largest file in dir.
func largest(t *testing.T, dir string) (name string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	most := int64(-1)
	for _, e := range entries {
		if i, err := e.Info(); err == nil && !e.IsDir() && i.Size() > most {
			name, most = e.Name(), i.Size()
		}
	}
	return name
}

// differing counts the blocks of 4096 bytes in which two files differ.
func differing(t *testing.T, a, b string) (blocks int) {
	t.Helper()
	var files [2]*os.File
	for i, name := range []string{a, b} {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files[i] = f
	}
	var page [2][4096]byte
	for {
		n, err := io.ReadFull(files[0], page[0][:])
		m, _ := io.ReadFull(files[1], page[1][:])
		if n == 0 && m == 0 {
			return blocks
		}
		if err != nil && err != io.ErrUnexpectedEOF && err != io.EOF {
			t.Fatal(err)
		}
		if n != m || page[0] != page[1] {
			blocks++
		}
	}
}

// TestCopiedInBetween: rsync, which goes by size and time, has copied a file that was written over before that stood in its place.
// The next run copies it again. After a reencryption, which keeps sizes and times, it takes --checksum.
func TestCopiedInBetween(t *testing.T) {
	t.Parallel()
	lab.Need(t, "rsync")
	b := newBench(t)
	live := b.mount(b.at("vault"))
	names := []string{"small", "large"}
	for i, size := range []int{1000, 300_000} {
		write(t, filepath.Join(live, names[i]), strings.Repeat("o", size), 0)
	}
	b.ok("ctl", "flush", live)
	for _, name := range names {
		write(t, filepath.Join(live, name), "new", 0)
	}
	want := contents(t, live, nil)
	b.script(`rsync -a vault/ copy/`)
	b.ok("ctl", "flush", live)
	b.umount(live)
	check := func(when, flags string) {
		t.Helper()
		b.script(`rsync -a --delete ` + flags + ` vault/ copy/`)
		got := b.mount(b.at("copy"), "--read-only")
		compare(t, when, contents(t, got, nil), want)
		b.umount(got)
	}
	check("the next run", "")
	b.ok("reencrypt", b.at("vault"))
	check("after a reencryption", "--checksum")
}
