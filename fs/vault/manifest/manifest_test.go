package manifest_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/vault/manifest"
)

var ctx = context.Background()

// signedAt is when the manifests of the tests are made.
func signedAt() time.Time { return time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC) }

// keys stands for a vault that is open.
type keys struct {
	*envelope.VolumeKeys
	cfg envelope.Config
}

func (k keys) Config() *envelope.Config { return &k.cfg }

// newKeys are those of the volume key of 32 bytes of fill.
func newKeys(t testing.TB, fill byte) keys {
	t.Helper()
	vk, err := envelope.NewVolumeKeys(bytes.Repeat([]byte{fill}, envelope.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	return keys{vk, envelope.Config{Volume: envelope.VolumeID{1, 2, 3}}}
}

// tree makes a directory with all that a manifest knows of.
func tree(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{".kmsfs", ".kmsfs/keys", ".kmsfs/tmp", ".kmsfs/damaged", "a", "a/b", "a-b"} {
		must(t, os.Mkdir(filepath.Join(dir, d), 0o755))
	}
	for name, text := range map[string]string{".kmsfs/vault.json": "{}", ".kmsfs/lock": "", ".kmsfs/keys.lock": "", ".kmsfs/keys/00000000000000aa": "table",
		".kmsfs/keys/00000000000000aa.new": "left", ".kmsfs/tmp/x": "x", ".kmsfs/damaged/y": "y", "a/.kmsfs.dir": "id", "a/file": "hello\n",
		"a/b/odd \n\"name\xff\"": "odd", "a-b/empty": "", "big": strings.Repeat("0123456789abcdef", 1<<17)} {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	must(t, os.Symlink("target", filepath.Join(dir, "link")))
	must(t, unix.Mkfifo(filepath.Join(dir, "pipe"), 0o644))
	old := signedAt().Add(-time.Hour)
	must(t, filepath.Walk(dir, func(path string, fi os.FileInfo, err error) error {
		if err == nil && fi.Mode().IsRegular() {
			err = os.Chtimes(path, old, old)
		}
		return err
	}))
	return dir
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t testing.TB, dir string) backing.Dir {
	t.Helper()
	d, err := backing.OpenDir(dir)
	must(t, err)
	t.Cleanup(func() { d.Close() })
	return d
}

func create(t testing.TB, dir string) []byte {
	t.Helper()
	var out bytes.Buffer
	_, err := manifest.Create(ctx, open(t, dir), newKeys(t, 7), manifest.Contents, signedAt(), &out, nil)
	must(t, err)
	return out.Bytes()
}

var update = flag.Bool("update", false, "write the vector, where there is none")

// TestVector holds the format against a manifest that was written once.
func TestVector(t *testing.T) {
	const path = "testdata/v1.manifest"
	got := create(t, tree(t))
	if _, err := os.Stat(path); err != nil && *update {
		must(t, os.WriteFile(path, got, 0o644))
	}
	want, err := os.ReadFile(path)
	must(t, err)
	if !bytes.Equal(got, want) {
		t.Errorf("the manifest is now\n%s", got)
	}
	m, err := manifest.Parse(bytes.NewReader(want))
	must(t, err)
	must(t, m.Verify(newKeys(t, 7).ManifestSigner()))
	must(t, m.Verify(nil))
	if err := m.Verify(newKeys(t, 8).ManifestSigner()); !errors.Is(err, manifest.ErrSignature) {
		t.Errorf("another signer: %v", err)
	}
	if !m.Created.Equal(signedAt()) || m.Head.Files != 9 || m.Head.Directories != 6 || m.Head.Bytes != 2<<20+18 {
		t.Errorf("head %+v", m.Head)
	}
	if b3sum, err := exec.LookPath("b3sum"); err == nil { // the hash of a file is that of other programs
		cmd := exec.Command(b3sum, "--no-names")
		cmd.Stdin = strings.NewReader("hello\n")
		if out, err := cmd.Output(); err != nil || !strings.Contains(string(want), "F "+strings.TrimSpace(string(out))+" 6 a/file\n") {
			t.Errorf("b3sum says %s, %v", out, err)
		}
	}
}

// TestRefused changes a manifest in every line, and in every byte of some.
func TestRefused(t *testing.T) {
	good, err := os.ReadFile("testdata/v1.manifest")
	must(t, err)
	refused := func(what string, b []byte, kinds ...error) {
		t.Helper()
		m, err := manifest.Parse(bytes.NewReader(b))
		if err == nil {
			err = m.Verify(newKeys(t, 7).ManifestSigner())
		}
		if err == nil || !slices.ContainsFunc(kinds, func(k error) bool { return errors.Is(err, k) }) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for i := range good {
		b := slices.Clone(good)
		b[i] ^= 1
		refused(fmt.Sprintf("byte %d", i), b, manifest.ErrMalformed, manifest.ErrSignature, manifest.ErrVersion)
		refused(fmt.Sprintf("%d bytes", i), good[:i], manifest.ErrMalformed)
	}
	lines := bytes.SplitAfter(good, []byte("\n"))
	for i := range lines[:len(lines)-1] {
		refused(fmt.Sprintf("without line %d", i), bytes.Join(slices.Delete(slices.Clone(lines), i, i+1), nil), manifest.ErrMalformed)
		refused(fmt.Sprintf("line %d twice", i), bytes.Join(slices.Insert(slices.Clone(lines), i, lines[i]), nil), manifest.ErrMalformed)
	}
	for i, line := range lines { // the hash of a directory follows from what is in it
		if bytes.HasPrefix(line, []byte("D ")) {
			b := slices.Clone(line)
			b[2] ^= 1 // another hex digit
			refused(fmt.Sprintf("the hash in line %d", i), bytes.Join(slices.Replace(slices.Clone(lines), i, i+1, b), nil), manifest.ErrMalformed)
		}
	}
	refused("more behind", append(slices.Clone(good), '\n'), manifest.ErrMalformed)
	refused("a later version", bytes.Replace(good, []byte("manifest 1"), []byte("manifest 2"), 1), manifest.ErrVersion)
	refused("a long line", append([]byte(strings.Repeat("x", 2<<20)), good...), manifest.ErrMalformed)
}

// TestCompare finds every kind of difference, and no other.
func TestCompare(t *testing.T) {
	text := create(t, tree(t))
	m, err := manifest.Parse(bytes.NewReader(text))
	must(t, err)
	for name, c := range map[string]struct {
		do   func(dir string)
		want []string
	}{
		"nothing": {func(string) {}, nil},
		"what is not covered": {func(dir string) {
			must(t, os.RemoveAll(dir+"/.kmsfs/tmp"))
			must(t, os.WriteFile(dir+"/.kmsfs/damaged/z", nil, 0o600))
			must(t, os.Chmod(dir+"/a/file", 0o600))
		}, nil},
		"a longer key table": {func(dir string) {
			must(t, os.WriteFile(dir+"/.kmsfs/keys/00000000000000aa", []byte("table and more"), 0o600))
		}, nil},
		"a shorter key table": {func(dir string) { must(t, os.WriteFile(dir+"/.kmsfs/keys/00000000000000aa", []byte("tab"), 0o600)) },
			[]string{"changed .kmsfs/keys/00000000000000aa"}},
		"another key table": {func(dir string) { must(t, os.WriteFile(dir+"/.kmsfs/keys/00000000000000bb", nil, 0o600)) },
			[]string{"extra .kmsfs/keys/00000000000000bb"}},
		"a write": {func(dir string) { must(t, os.WriteFile(dir+"/a/file", []byte("hallo\n"), 0o600)) }, []string{"changed a/file"}},
		"an older file": {func(dir string) {
			must(t, os.WriteFile(dir+"/a/file", []byte("older"), 0o600))
			must(t, os.Chtimes(dir+"/a/file", signedAt().Add(-2*time.Hour), signedAt().Add(-2*time.Hour)))
		}, []string{"older a/file"}},
		"an exchange": {func(dir string) {
			must(t, os.Rename(dir+"/a/file", dir+"/x"))
			must(t, os.Rename(dir+"/big", dir+"/a/file"))
			must(t, os.Rename(dir+"/x", dir+"/big"))
		}, []string{"older a/file", "older big"}},
		"a removal":         {func(dir string) { must(t, os.RemoveAll(dir+"/a")) }, []string{"missing a", "missing a/.kmsfs.dir", "missing a/b", "missing a/b/odd \n\"name\xff\"", "missing a/file"}},
		"a new file":        {func(dir string) { must(t, os.WriteFile(dir+"/a/new", nil, 0o600)) }, []string{"extra a/new"}},
		"another target":    {func(dir string) { must(t, os.Remove(dir+"/link")); must(t, os.Symlink("other!", dir+"/link")) }, []string{"changed link"}},
		"a file for a pipe": {func(dir string) { must(t, os.Remove(dir+"/pipe")); must(t, os.WriteFile(dir+"/pipe", nil, 0o600)) }, []string{"changed pipe"}},
		"a rename":          {func(dir string) { must(t, os.Rename(dir+"/a-b/empty", dir+"/a/b/empty")) }, []string{"extra a/b/empty", "missing a-b/empty"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := tree(t)
			c.do(dir)
			diff, err := m.Compare(ctx, open(t, dir), nil)
			must(t, err)
			var got []string
			for _, d := range diff {
				got = append(got, string(d.Change)+" "+d.Path)
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// TestUnread tells apart what cannot be read.
func TestUnread(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may read everything: run it as another user")
	}
	dir := tree(t)
	m, err := manifest.Parse(bytes.NewReader(create(t, dir)))
	must(t, err)
	must(t, os.Chmod(dir+"/a", 0))
	defer os.Chmod(dir+"/a", 0o755)
	diff, err := m.Compare(ctx, open(t, dir), nil)
	if err != nil || len(diff) != 1 || diff[0].Change != manifest.Unread || !errors.Is(diff[0].Err, syscall.EACCES) {
		t.Errorf("%+v, %v", diff, err)
	}
}

// TestSubtree: the hash of a directory depends on nothing outside of it, and on all in it.
func TestSubtree(t *testing.T) {
	hash := func(do func(dir string)) manifest.Hash {
		dir := tree(t)
		do(dir)
		m, err := manifest.Parse(bytes.NewReader(create(t, dir)))
		must(t, err)
		for _, e := range m.Entries {
			if e.Path == "a" {
				return e.Hash
			}
		}
		t.Fatal("no a")
		return manifest.Hash{}
	}
	was := hash(func(string) {})
	if hash(func(dir string) { must(t, os.Remove(dir+"/big")) }) != was {
		t.Error("it changes with what is elsewhere")
	}
	for _, do := range []func(dir string){
		func(dir string) { must(t, os.WriteFile(dir+"/a/file", []byte("hallo\n"), 0o600)) },
		func(dir string) { must(t, os.Rename(dir+"/a/file", dir+"/a/fila")) },
		func(dir string) { must(t, os.Rename(dir+"/a/file", dir+"/a/b/file")) },
		func(dir string) { must(t, os.Mkdir(dir+"/a/b/c", 0o700)) },
	} {
		if hash(do) == was {
			t.Error("it stays the same")
		}
	}
}

// FuzzParse: whatever is read, it is refused or is exactly what would be written.
func FuzzParse(f *testing.F) {
	good, err := os.ReadFile("testdata/v1.manifest")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	for i := range bytes.SplitAfter(good, []byte("\n")) {
		lines := bytes.SplitAfter(good, []byte("\n"))
		f.Add(bytes.Join(slices.Delete(lines, i, i+1), nil))
	}
	f.Add([]byte(`{"format":"kmsfs manifest 1"}` + "\nS 00\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := manifest.Parse(bytes.NewReader(b))
		if err != nil {
			if !errors.Is(err, manifest.ErrMalformed) && !errors.Is(err, manifest.ErrVersion) {
				t.Fatalf("an error of no kind: %v", err)
			}
			return
		}
		if len(m.Signature) != ed25519.SignatureSize || m.Verify(nil) != nil && bytes.Equal(b, good) {
			t.Fatal("the signature")
		}
		_ = m.Root()
	})
}
