package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// offlineBench has a directory src with some of everything, and a vault v of it that sync has made.
func offlineBench(t *testing.T) *bench {
	b := newBench(t)
	b.mkdir("src")
	b.mkdir("src/sub")
	b.mkdir("src/sub/deep")
	b.write("src/letter", "meet at noon\n")
	b.write("src/sub/deep/file", strings.Repeat("0123456789", 100_000))
	b.write("src/sub/a.tmp", "x")
	if err := errors.Join(os.Symlink("letter", b.dir+"/src/link"), os.Link(b.dir+"/src/letter", b.dir+"/src/sub/other")); err != nil {
		t.Fatal(err)
	}
	b.ok("init --key-store keys v")
	b.ok("sync src v")
	return b
}

// TestOffline reads a vault without a mount: each verb shows what is there, and changes nothing.
func TestOffline(t *testing.T) {
	t.Parallel()
	b := offlineBench(t)
	before := b.stored("v")
	for line, want := range map[string]string{
		"ls v":                                "letter\nlink\nsub",
		"ls v letter sub":                     "letter\na.tmp\ndeep\nother",
		"ls -R v sub":                         "sub/a.tmp\nsub/deep\nsub/deep/file\nsub/other",
		"cat v letter":                        "meet at noon",
		"cat v /letter sub/a.tmp":             "meet at noon\nx",
		"cat --range 5-6 v letter":            "at",
		"cat --range 999990- v sub/deep/file": "0123456789",
		"cat --range -3 v sub/deep/file":      "789",
		"cat --range 2000000- v letter":       "",
		"find v --type d":                     "sub\nsub/deep",
		"find v sub --name *.tmp":             "sub/a.tmp",
		"find v --path sub/*":                 "sub/a.tmp\nsub/deep\nsub/other",
		"find v --size +10k":                  "sub/deep/file",
		"find v --size 13 --max-depth 1":      "letter",
		"find v --newer 2100-01-01":           "",
		"find v --newer 48h --type l":         "link",
	} {
		if got := b.ok(line); got != want {
			t.Errorf("kmsfs %s: got %q, want %q", line, got, want)
		}
	}
	var list []objectInfo
	b.json("ls --json v", &list)
	if len(list) != 3 || list[1].Target != "letter" || list[0].Size != 13 || list[0].Links != 2 {
		t.Errorf("got %+v", list)
	}
	var stats []statInfo
	b.json("stat --json v letter sub", &stats)
	if len(stats) != 2 || len(stats[0].FileID) != 32 || !strings.Contains(stats[0].CMK, ":key/") || stats[1].Type != "directory" || stats[1].FileID != "" {
		t.Errorf("got %+v", stats)
	}
	b.ok("cp v:sub/deep v:letter src")
	b.ok("cp v:letter renamed")
	for path, want := range map[string]int{"src/deep/file": 1_000_000, "renamed": 13} {
		if st, err := os.Stat(b.dir + "/" + path); err != nil || st.Size() != int64(want) {
			t.Errorf("%s: %v, %v", path, st, err)
		}
	}
	if after := b.stored("v"); !slices.Equal(before, after) {
		t.Errorf("the vault was changed:\n%s\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
	}
}

// stored is each object of a directory with its size and times.
func (b *bench) stored(dir string) (list []string) {
	b.t.Helper()
	if err := filepath.WalkDir(filepath.Join(b.dir, dir), func(path string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := e.Info()
		if err == nil {
			list = append(list, strings.Join([]string{path, st.Mode().String(), st.ModTime().Format(time.RFC3339Nano)}, " "))
		}
		return err
	}); err != nil {
		b.t.Fatal(err)
	}
	return list
}

// TestSync: what is made, changed and removed arrives, in both directions, and nothing else is touched.
func TestSync(t *testing.T) {
	t.Parallel()
	b := offlineBench(t)
	var s syncSummary
	b.json("sync --json src v", &s)
	if s.Made+s.Changed+s.Attrs+s.Removed != 0 || s.Objects != 8 {
		t.Errorf("once more: %+v", s)
	}
	b.write("src/sub/new", "new")
	b.write("src/letter", "meet at nine\n!")
	os.RemoveAll(b.dir + "/src/sub/deep")
	if got, want := sortedLines(b.ok("sync --dry-run src v")), "+ sub/new\n- sub/deep\n- sub/deep/file\n~ letter\n~ sub/other"; got != want {
		t.Errorf("a dry run: got\n%s\nwant\n%s", got, want)
	}
	if got, want := sortedLines(b.ok("sync --verbose src v")), "+ sub/new\n- sub/deep\n- sub/deep/file\n~ letter\n~ sub/other"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	b.ok("sync v back")
	b.ok("sync v:sub sub")
	if out, err := exec.Command("diff", "-r", "--no-dereference", b.dir+"/src", b.dir+"/back").CombinedOutput(); err != nil {
		t.Errorf("%s", out)
	}
	if out, err := exec.Command("diff", "-r", b.dir+"/src/sub", b.dir+"/sub").CombinedOutput(); err != nil {
		t.Errorf("%s", out)
	}
	b.write("src/a.tmp", "x")
	b.write("patterns", "*.tmp\n# comment\n!kept.tmp\n")
	if got := b.ok("sync -n --exclude-from patterns src v"); got != "" {
		t.Errorf("with patterns: %s", got)
	}
	b.ok("sync --manifest m src v")
	b.ok("verify --manifest m v")
	b.write("src/letter", "meet at ten")
	b.ok("sync src v")
	b.fails(3, "is not as the manifest", "backup", "verify --manifest m v")
	b.fails(2, "--manifest", "kmsfs manifest", "sync --manifest m v back")
	b.mkdir("empty")
	b.ok("sync --no-delete empty v:sub/more")
	b.fails(2, "empty is empty", "--allow-empty", "sync empty v")
	b.ok("sync --allow-empty empty v")
	if got := b.ok("find v"); got != "" {
		t.Errorf("left: %s", got)
	}
}

// sortedLines are the lines in order.
func sortedLines(text string) string {
	lines := strings.Split(text, "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// TestExport: an archive holds all, with links, and makes the same vault again.
func TestExport(t *testing.T) {
	t.Parallel()
	b := offlineBench(t)
	b.ok("export --output all.tar v")
	data, err := os.ReadFile(b.dir + "/all.tar")
	if err != nil {
		t.Fatal(err)
	}
	types := map[string]byte{}
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		types[h.Name] = h.Typeflag
	}
	if len(types) != 8 || types["sub/other"] != tar.TypeLink || types["link"] != tar.TypeSymlink {
		t.Errorf("got %v", types)
	}
	if err := errors.Join(os.Symlink("all.tar", b.dir+"/alias.tar"), os.Symlink("/dev/null", b.dir+"/null")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"alias.tar", "null"} { // what is there is written to, and a link stays one
		b.ok("export --output " + name + " v")
		if st, err := os.Lstat(b.dir + "/" + name); err != nil || st.Mode()&os.ModeSymlink == 0 {
			t.Errorf("%s: %v, %v", name, st.Mode(), err)
		}
	}
	if st, err := os.Stat("/dev/null"); err != nil || st.Mode()&os.ModeCharDevice == 0 {
		t.Fatal("/dev/null is gone")
	}
	b.ok("init --key-store keys w")
	b.ok("import --input all.tar w")
	if got := b.ok("sync -n v w"); got != "" {
		t.Errorf("the other vault differs:\n%s", got)
	}
	b.ok("cp src/letter w:sub")
	b.ok("import --input all.tar w sub")
	if got := b.ok("cat w sub/sub/other"); got != "meet at noon" {
		t.Errorf("got %q", got)
	}
	b.write("all.tar", string(data[:len(data)/2]))
	b.fails(1, "damaged", "tar -tf", "import --input all.tar w")
}

// TestOfflineMounted: of a mounted vault the verbs see what was written to the mount, and write nothing to it.
func TestOfflineMounted(t *testing.T) {
	b := mountBench(t, "p")
	b.mkdir("p")
	b.ok("mount --init --key-store keys v p")
	b.write("p/file", "hello")
	if got := b.ok("cat v file"); got != "hello" {
		t.Errorf("got %q", got)
	}
	b.write("p/file", "other")
	if got := b.ok("cat p " + b.dir + "/p/file"); got != "other" {
		t.Errorf("by the mountpoint: got %q", got)
	}
	b.mkdir("p/sub")
	b.write("p/sub/file", "of the working directory")
	c := b.command("cat", b.dir+"/v", "file")
	c.Dir = b.dir + "/p/sub"
	if got, err := c.Output(); err != nil || string(got) != "other" {
		t.Errorf("a path from the root, in a directory of the mount: got %q, %v", got, err)
	}
	b.mkdir("src")
	b.fails(5, "is mounted on", "kmsfs umount", "sync src v")
	b.fails(5, "is mounted on", "kmsfs umount", "cp src v:src")
}

// TestOfflineRefusals: each error has its code, its words and its hint.
func TestOfflineRefusals(t *testing.T) {
	t.Parallel()
	b := offlineBench(t)
	b.mkdir("plain")
	b.ok("init --key-store keys w")
	b.ok("init --key-store keys sub")
	b.ok("sync src sub")
	for _, c := range []struct {
		code             int
		words, hint, cmd string
	}{
		{2, "VAULT is missing", "kmsfs ls VAULT", "ls"},
		{2, "PATH is missing", "kmsfs cat VAULT", "cat v"},
		{9, "not a vault", "kmsfs init", "ls plain"},
		{22, "there is no nothing", "kmsfs ls", "cat v nothing"},
		{22, "no directory", "symbolic links", "cat v link/x"},
		{2, "is no file: directory", "kmsfs ls", "cat v sub"},
		{2, "is no file: symlink", "kmsfs ls", "cat v link"},
		{2, "no range", "--range 0-99", "cat --range 9-5 v letter"},
		{2, "no size", "--size +10M", "find v --size many"},
		{2, "--type", "--type file", "find v --type x"},
		{2, "no time", "2026-01-02", "find v --newer soon"},
		{2, "no pattern", "[a-z]", "find v --name ["},
		{2, "is a vault", "rsync", "sync src plain"},
		{7, "inside one another", "outside", "sync . v"},
		{2, "pattern", "kmsfs sync --help", "sync --exclude [ src v"},
		{22, "no such file", "name a directory", "sync nothing v"},
		{2, "is in a vault", "VAULT:PATH", "cp src plain"},
		{2, "not of one vault", "one after the other", "cp v:letter src/letter w:"},
		{2, "is no directory", "name one SRC", "cp v:letter v:link none"},
		{22, "no directory", "symbolic links", "cp src/letter v:letter/x/y"},
		{7, "inside one another", "outside", "cp v:sub v:sub"},
		{7, "inside one another", "outside", "cp v:sub v:sub/deep/new"},
		{7, "inside one another", "outside", "cp v: v:sub"},
		{7, "inside one another", "outside", "cp . v:"},
		{7, "inside one another", "outside", "cp v:letter v/.kmsfs"},
		{7, "inside one another", "outside", "cp v:letter v/new"},
		{7, "inside one another", "outside", "cp sub:sub ."},
		{22, "there is no none", "paths are from the root", "import --input keys/keystore v none"},
		{1, "archive", "tar -tf", "import --input src/sub/deep/file v"},
	} {
		b.fails(c.code, c.words, c.hint, c.cmd)
	}
	copied := filepath.Join(b.dir, "damaged")
	if err := os.CopyFS(copied, os.DirFS(b.dir+"/v")); err != nil {
		t.Fatal(err)
	}
	filepath.WalkDir(copied, func(path string, e os.DirEntry, _ error) error { // each large file loses a byte
		if st, err := e.Info(); err == nil && st.Size() > 100_000 && !strings.Contains(path, ".kmsfs") {
			f, _ := os.OpenFile(path, os.O_RDWR, 0)
			f.WriteAt([]byte("x"), 70_000)
			f.Close()
		}
		return nil
	})
	b.fails(3, "damaged", "backup", "cat damaged sub/deep/file")
	b.fails(3, "damaged", "", "cp damaged:sub/deep/file lost")
	for _, line := range []string{"sync damaged part", "export --output part.tar damaged"} { // the rest is there, and damage told of
		if r := b.run(strings.Fields(line)); r.code != 3 || !strings.Contains(r.stderr, "restore what is named above from a backup") {
			t.Errorf("kmsfs %s: exit code %d: %s", line, r.code, r.stderr)
		}
	}
	if _, err := os.Stat(b.dir + "/lost"); err == nil {
		t.Error("a damaged file was copied")
	}
}

// TestOfflineLostName: of a directory with a name that does not open all else is shown and copied, the exit code tells of it, and
// a mirror keeps what it has of that name.
func TestOfflineLostName(t *testing.T) {
	t.Parallel()
	b := offlineBench(t)
	b.ok("sync v back")
	stored := strings.Fields(b.ok("locate v letter"))
	name := stored[slices.Index(stored, "as")+1]
	if err := os.Rename(b.dir+"/v/"+name, b.dir+"/v/x"+name[1:]); err != nil {
		t.Fatal(err)
	}
	os.Remove(b.dir + "/back/sub/a.tmp")
	for _, line := range []string{"sync v back", "export --output all.tar v", "cp v: copy"} {
		if r := b.run(strings.Fields(line)); r.code != 3 || !strings.Contains(r.stderr, "do not open") {
			t.Errorf("kmsfs %s: exit code %d: %s", line, r.code, r.stderr)
		}
	}
	for _, path := range []string{"back/letter", "back/sub/a.tmp"} {
		if _, err := os.Stat(filepath.Join(b.dir, path)); err != nil {
			t.Error(err)
		}
	}
	if b, err := os.ReadFile(b.dir + "/all.tar"); err != nil || !bytes.Contains(b, []byte("sub/a.tmp")) {
		t.Errorf("the archive lacks what can be read: %v", err)
	}
	if r := b.run([]string{"ls", "v"}); r.code != 3 || !strings.Contains(r.stdout, "sub") {
		t.Errorf("ls: exit code %d, got %q", r.code, r.stdout)
	}
}

// TestSyncMends: what of a vault is damaged, or has lost its data key, is written anew from the source where sync looks at it, and told
// of; a damaged source harms no copy.
func TestSyncMends(t *testing.T) {
	t.Parallel()
	b := offlineBench(t)
	content := strings.Repeat("0123456789", 200_000)
	b.write("src/large", content)
	if err := os.Chtimes(b.dir+"/src/large", time.Time{}, time.Unix(1e9, 0)); err != nil {
		t.Fatal(err)
	}
	b.ok("sync src v")
	b.ok("sync v back")
	stored := func(path string) string {
		t.Helper()
		words := strings.Fields(b.ok("locate v " + path))
		return b.dir + "/v/" + words[slices.Index(words, "as")+1]
	}
	damage := func(path string, off int64) {
		t.Helper()
		f, err := os.OpenFile(stored(path), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		st, err := f.Stat()
		if err == nil {
			_, err = f.WriteAt([]byte("damage"), off)
		}
		if err := errors.Join(err, os.Chtimes(f.Name(), time.Time{}, st.ModTime())); err != nil { // as a failing disk does it
			t.Fatal(err)
		}
	}
	mended := func(line string, paths ...string) {
		t.Helper()
		r := b.run(strings.Fields(line))
		if r.code != 0 || strings.Count(r.stderr, "damaged in the destination") != len(paths) {
			t.Fatalf("kmsfs %s: exit code %d: %s", line, r.code, r.stderr)
		}
		for _, path := range paths {
			if !strings.Contains(r.stderr, "kmsfs: "+path+" ") {
				t.Errorf("kmsfs %s: nothing of %s: %s", line, path, r.stderr)
			}
		}
	}
	link := stored("link")
	damage("letter", 130) // it is sub/other too
	damage("large", 1_000_000)
	if err := errors.Join(os.Remove(link), os.Symlink("damage", link)); err != nil {
		t.Fatal(err)
	}
	if r := b.run([]string{"sync", "--checksum", "v", "back"}); r.code != 3 || strings.Contains(r.stderr, "anew") { // it is the source
		t.Errorf("exit code %d: %s", r.code, r.stderr)
	}
	if got, err := os.ReadFile(b.dir + "/back/large"); err != nil || string(got) != content {
		t.Errorf("the copy of a damaged source was changed: %v", err)
	}
	mended("sync -n --checksum src v", "letter", "large", "link")
	mended("sync --checksum src v", "letter", "large", "link")
	b.ok("verify v")
	mended("sync --checksum src v")
	// Without --checksum what has the same size and time is not looked at.
	damage("large", 1_000_000)
	mended("sync src v")
	content = "other digits" + content[12:]
	b.write("src/large", content)
	mended("sync src v", "large")
	b.ok("verify v")
	// Lost keys.
	for _, table := range b.tables() {
		b.lose(table)
	}
	mended("sync --checksum src v", "letter", "large", "sub/a.tmp", "sub/deep/file")
	b.ok("verify v")
	if out := b.ok("cat v large"); out != content {
		t.Error("what was written anew is not the source")
	}
	if out := b.ok("sync -n --checksum src v"); out != "" {
		t.Errorf("left to do: %s", out)
	}
}
