package mirror_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"kmsfs/fs/vault/mirror"
)

// Patterns mean what git says that they mean.
func TestIgnore(t *testing.T) {
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("needs git: apt-get install git")
	}
	dir := t.TempDir()
	git := func(stdin string, args ...string) string {
		t.Helper()
		c := exec.Command("git", append([]string{"-C", dir, "-c", "core.excludesFile=/dev/null"}, args...)...)
		c.Stdin = strings.NewReader(stdin)
		out, err := c.Output()
		if err != nil && c.ProcessState.ExitCode() != 1 { // nothing is ignored
			t.Fatal(err)
		}
		return string(out)
	}
	git("", "init", "-q")
	var dirs, files []string
	names := []string{"a", "b", "a.txt", "ab", "foo", "ba r"}
	for _, x := range names[:4] {
		for _, y := range names {
			dirs = append(dirs, x, x+"/"+y)
			for _, z := range names {
				if z != "b" {
					files = append(files, x+"/"+y+"/"+z+".f", x+"/"+z+".g")
				}
			}
		}
	}
	for _, d := range dirs {
		os.MkdirAll(filepath.Join(dir, d), 0o755)
	}
	for _, f := range files {
		os.WriteFile(filepath.Join(dir, f), nil, 0o644)
	}
	fixed := []string{"*.f", "a/", "/a", "a/b", "**/foo", "a/**", "a/**/foo.f", "!a/b/a.f", "[ab]", "[!a]*", "?", "\\!a", "#a", "a*b", "foo.*", "a/*", "*", "!*.g", "ba\\ r/", "b/**/", "**", "/**/a.txt", "a**b", "[[:alpha:]]", "[]a]b", " ", "a "}
	r := rand.New(rand.NewPCG(1, 2))
	for round := range 150 {
		var patterns []string
		if round < len(fixed) {
			patterns = []string{fixed[round]}
		} else {
			for range 1 + r.IntN(4) {
				patterns = append(patterns, fixed[r.IntN(len(fixed))])
			}
		}
		list := strings.Join(patterns, "\n")
		if err := os.WriteFile(filepath.Join(dir, ".git", "info", "exclude"), []byte(list+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		g, err := mirror.ParseIgnore(strings.NewReader(list))
		if err != nil {
			t.Fatalf("%q: %v", patterns, err)
		}
		ignored := map[string]bool{}
		all := append(append([]string{}, dirs...), files...)
		for _, p := range strings.Split(git(strings.Join(all, "\x00")+"\x00", "check-ignore", "-z", "--no-index", "--stdin"), "\x00") {
			ignored[p] = true
		}
		for i, p := range all {
			if got := g.Match(p, i < len(dirs)); got != ignored[p] {
				t.Fatalf("patterns %q: %s: got %v, and git says %v", patterns, p, got, ignored[p])
			}
		}
	}
	for _, bad := range []string{"[a", "a\\"} {
		if _, err := mirror.ParseIgnore(strings.NewReader(fmt.Sprintf("x\n%s\n", bad))); err == nil || !strings.Contains(err.Error(), "line 2") {
			t.Errorf("%s: got %v", bad, err)
		}
	}
}
