package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"kmsfs/envelope"
)

// tool runs another program in the bench's directory and returns what it prints.
func (b *bench) tool(stdin string, name string, args ...string) string {
	b.t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Stdin = b.dir, strings.NewReader(stdin)
	cmd.Env = append(os.Environ(), "RESTIC_PASSWORD=secret", "RESTIC_REPOSITORY="+b.dir+"/repo", "RESTIC_CACHE_DIR="+b.dir+"/cache")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		b.t.Fatalf("%s %s: %v\n%s", name, args, err, stderr.String())
	}
	return string(out)
}

// locateBench is a bench with a vault of many files, and their contents by plaintext path.
func locateBench(t *testing.T) (*bench, map[string]string) {
	b := mountBench(t, "p")
	b.ok("key create --key-store keys --alias alias/two")
	b.ok("init --key-store keys v")
	b.mkdir("p")
	b.ok("mount v p")
	long := strings.Repeat("long ", 40)
	want := map[string]string{}
	for _, dir := range []string{"", "dir", "dir/" + long, "dir/" + long + "/sub"} {
		if dir != "" {
			b.mkdir("p/" + dir)
		}
		for i := range 60 {
			want[path.Join(dir, fmt.Sprint("file ", i))] = strings.Repeat(fmt.Sprintf("%s %d ", dir, i), 1+i%3*500)
		}
		want[path.Join(dir, "of a "+long+"name")] = "a long name in " + dir
		want[path.Join(dir, "empty")] = ""
	}
	for name, text := range want {
		b.write("p/"+name, text)
	}
	if err := os.Symlink("file 1", b.dir+"/p/dir/symlink"); err != nil {
		t.Fatal(err)
	}
	return b, want
}

// opens mounts the vault in dir, which has one file, and reads it; what rsync has restored is mounted for writing too.
func (b *bench) opens(what, dir, name, text string) {
	b.t.Helper()
	ways := []string{"-o ro", "-o rw"}
	if what != "rsync" {
		ways = ways[:1]
	}
	for _, options := range ways {
		b.ok("mount " + options + " " + dir + " p")
		listed := false
		if err := filepath.WalkDir(b.dir+"/p", func(p string, _ os.DirEntry, err error) error {
			listed = listed || p == b.dir+"/p/"+name
			return err
		}); err != nil || !listed {
			b.t.Errorf("%s: %s is not listed: %v", what, name, err)
		}
		got, err := os.ReadFile(b.dir + "/p/" + name)
		if link, e := os.Readlink(b.dir + "/p/" + name); e == nil {
			got, err = []byte("-> "+link), nil
		}
		if err != nil || string(got) != text {
			b.t.Errorf("%s: %s: %d bytes of %d, %v", what, name, len(got), len(text), err)
		}
		if options == "-o rw" {
			b.write("p/new", "something new")
		}
		b.ok("umount p")
	}
}

// copies restores what locate says of the backups of v, each into a directory of its own, and returns these.
func (b *bench) copies(n int, name string, tools ...string) map[string]string {
	b.t.Helper()
	run := func(args ...string) string {
		b.t.Helper()
		r := b.run(append(append([]string{"locate"}, args...), "v", name))
		if r.code != 0 {
			b.t.Fatalf("locate %s: %s", name, r.stderr)
		}
		return r.stdout
	}
	dirs := map[string]string{}
	for _, tool := range tools {
		dir := fmt.Sprintf("%s%d", tool, n)
		b.mkdir(dir)
		dirs[tool] = dir
		switch tool {
		case "rsync":
			b.tool(run("--paths"), "rsync", "-a", "--files-from=-", "v/", dir)
		case "tar":
			b.tool(run("--paths", "--null"), "tar", "-C", dir, "-xf", "v.tar", "--null", "-T", "-")
		case "restic":
			include := strings.Fields(run("--paths", "--prefix", "--include="+b.dir+"/v/"))
			b.tool("", "restic", append([]string{"-q", "restore", "latest", "--target", dir}, include...)...)
			dirs[tool] = dir + b.dir + "/v"
		}
	}
	return dirs
}

// backUp makes the backups.
func (b *bench) backUp() {
	b.t.Helper()
	entries, err := os.ReadDir(b.dir + "/v")
	if err != nil {
		b.t.Fatal(err)
	}
	names := ""
	for _, e := range entries {
		names += e.Name() + "\x00"
	}
	b.tool(names, "tar", "-C", "v", "-cf", "v.tar", "--null", "-T", "-")
	if _, err := os.Stat(b.dir + "/repo"); err != nil {
		b.tool("", "restic", "-q", "init")
	}
	b.tool("", "restic", "-q", "backup", b.dir+"/v")
}

// TestLocate restores what locate says of one file, with rsync, tar and restic, and reads the file in that.
func TestLocate(t *testing.T) {
	for _, name := range []string{"rsync", "tar", "restic"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skip(name + " is missing: apt-get install " + name)
		}
	}
	b, want := locateBench(t)
	var mounted, all []located
	b.json("locate --json p p/dir/symlink", &mounted) // a mount names its vault
	if len(mounted) != 1 || mounted[0].Path != "dir/symlink" || mounted[0].Kind != "symlink" || mounted[0].KeyTable != "" {
		t.Errorf("a symlink: %+v", mounted)
	}
	b.ok("umount p")
	b.json("locate --json --recursive v .", &all)
	at := map[string]located{}
	hyphen := ""
	for _, l := range all {
		at[l.Path] = l
		if l.Kind == "file" && strings.HasPrefix(l.Stored, "-") {
			hyphen = l.Path
		}
	}
	if len(at) != len(want)+5 { // three directories, the root and the symlink
		t.Errorf("%d paths in the vault", len(at))
	}
	if hyphen == "" {
		t.Log("no stored name begins with a hyphen this time")
		hyphen = "file 3"
	}
	long := strings.Repeat("long ", 40)
	deep := "dir/" + long + "/sub/of a " + long + "name"
	if l := at[deep]; len(l.Companions) != 4 || len(l.Directories) != 3 || l.Slot == 0 || l.Journal != nil {
		t.Errorf("a long name in a long name: %+v", l)
	}
	b.backUp()
	want["dir/symlink"] = "-> file 1"
	for i, name := range []string{hyphen, deep, "dir/symlink", "dir/empty"} {
		tools := []string{"rsync", "tar", "restic"}
		if name != deep {
			tools = tools[:2] // restic takes seconds to open its repository
		}
		for tool, dir := range b.copies(i, name, tools...) {
			files := 0
			if err := filepath.WalkDir(b.dir+"/"+dir, func(_ string, e os.DirEntry, err error) error {
				if err == nil && !e.IsDir() {
					files++
				}
				return err
			}); err != nil || files != len(at[name].restore()) {
				t.Errorf("%s has restored %d files, not %d: %v", tool, files, len(at[name].restore()), err)
			}
			b.opens(tool, dir, name, want[name])
		}
	}
	b.ok("rewrap --to alias/two v")
	b.backUp()
	for tool, dir := range b.copies(99, deep, "rsync", "restic") {
		b.opens(tool, dir, deep, want[deep])
	}
	paths := strings.Split(b.ok("locate --paths --recursive v dir"), "\n")
	if sorted := slices.Sorted(slices.Values(paths)); len(slices.Compact(sorted)) != len(paths) || len(paths) < 3*62+3 {
		t.Errorf("%d paths, some of them twice", len(paths))
	}
}

// TestLocateStored goes from all that is stored to the plaintext.
func TestLocateStored(t *testing.T) {
	b, want := locateBench(t)
	if err := os.Remove(b.dir + "/p/file 7"); err != nil {
		t.Fatal(err)
	}
	text := want["file 7"]
	b.write("p/file 7", text)
	r := b.run([]string{"locate", "--paths", "v", b.dir + "/p/dir/file 3"})
	if r.code != 0 || !strings.Contains(r.stdout, ".kmsfs/journal/") {
		t.Errorf("while it is mounted: %s%s", r.stdout, r.stderr)
	}
	b.ok("umount p")
	var all []located
	b.json("locate --json --recursive v .", &all)
	tables := map[string][]string{}
	plain := func(stored string) string {
		t.Helper()
		return b.ok("locate --stored v " + stored)
	}
	for i, l := range all {
		if l.KeyTable != "" {
			tables[l.KeyTable] = append(tables[l.KeyTable], l.Path)
		}
		if i%20 == 0 || l.Kind == "directory" || len(l.Companions) == 4 {
			if got := plain(b.dir + "/v/" + l.Stored); got != l.Path {
				t.Errorf("%s is %q, not %q", l.Stored, got, l.Path)
			}
			if n := len(l.Companions); n > 0 && envelope.IsLongEntry(path.Base(l.Stored)) && plain(l.Companions[n-1]) != l.Path {
				t.Errorf("the companion of %q is %q", l.Path, plain(l.Companions[n-1]))
			}
		}
		if l.Path != "." && l.Kind == "directory" && plain(l.Directories[len(l.Directories)-1]) != l.Path {
			t.Errorf("the id of %q is %q", l.Path, plain(l.Directories[len(l.Directories)-1]))
		}
	}
	for table, files := range tables {
		got := strings.Split(plain(table), "\n")
		slices.Sort(got)
		slices.Sort(files)
		if !slices.Equal(got, files) {
			t.Errorf("%s has %d files, not %d", table, len(got), len(files))
		}
	}
	if got := plain(".kmsfs/vault.json"); got != "." {
		t.Errorf("the config is of %q", got)
	}
	stray := strings.Repeat("x", 43)
	b.write("v/"+stray, "")
	b.fails(3, stray+": this stored name does not open", "companions", "locate --stored v "+stray)
	b.fails(2, "not in the vault", "directory of the vault", "locate --stored v /etc/passwd")
	b.fails(2, "PATH is missing", "--recursive", "locate v")
	b.fails(2, "--paths", "kmsfs locate --help", "locate --null v x")
	b.fails(22, "no such file", "--deleted", "locate v gone")
	var gone []located
	b.json("locate --json --deleted v dir/gone", &gone)
	if len(gone) != 1 || gone[0].Kind != kindMissing || gone[0].Stored == "" || gone[0].KeyTable != "" {
		t.Errorf("a file that is gone: %+v", gone)
	}
	// A file whose table is lost is located all the same.
	for table := range tables {
		if err := os.Remove(b.dir + "/v/" + table); err != nil {
			t.Fatal(err)
		}
	}
	var lost []located
	b.json("locate --json v dir/empty dir", &lost)
	r = b.run([]string{"locate", "--json", "v", "dir/file 3"})
	if r.code != 0 || !strings.Contains(r.stdout, `"key_table": ".kmsfs/keys/`) {
		t.Errorf("without its table: %s%s", r.stdout, r.stderr)
	}
}
