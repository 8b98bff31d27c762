package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// programEnv makes this test program be kmsfs itself: built once, and with the race detector where the test is.
const programEnv = "KMSFS_TEST_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(programEnv) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// result is what a run of kmsfs left.
type result struct {
	code           int
	stdout, stderr string
}

// bench is a directory to run kmsfs in, with a key store "keys" and a HOME of its own.
type bench struct {
	t    *testing.T
	dir  string
	name string // argv[0]
}

func newBench(t *testing.T) *bench {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return &bench{t, dir, "kmsfs"}
}

// command is kmsfs with args, not yet started, without a terminal.
func (b *bench) command(args ...string) *exec.Cmd {
	b.t.Helper()
	program, err := os.Executable()
	if err != nil {
		b.t.Fatal(err)
	}
	return &exec.Cmd{
		Path: program, Args: append([]string{b.name}, args...), Dir: b.dir,
		Env: append(os.Environ(), programEnv+"=1", "HOME="+b.dir, "XDG_DATA_HOME=",
			"GORACE=atexit_sleep_ms=0"), // else each race-detecting process ends a second late
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
}

// run runs kmsfs. files are the descriptors from 3 on.
func (b *bench) run(args []string, files ...*os.File) result {
	b.t.Helper()
	cmd := b.command(args...)
	cmd.ExtraFiles = files
	// Files and no pipes: a daemon that kept one open would otherwise hang the test.
	var out [2]*os.File
	for i := range out {
		f, err := os.CreateTemp(b.t.TempDir(), "out")
		if err != nil {
			b.t.Fatal(err)
		}
		defer f.Close()
		out[i] = f
	}
	cmd.Stdout, cmd.Stderr = out[0], out[1]
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		b.t.Fatal(err)
	}
	r := result{code: cmd.ProcessState.ExitCode()}
	for i, s := range []*string{&r.stdout, &r.stderr} {
		text, err := os.ReadFile(out[i].Name())
		if err != nil {
			b.t.Fatal(err)
		}
		*s = string(text)
	}
	if strings.Contains(r.stderr, "DATA RACE") || strings.Contains(r.stderr, "panic:") {
		b.t.Errorf("kmsfs %s: %s", args, r.stderr)
	}
	return r
}

// ok runs kmsfs, which must succeed, and returns its output without the last newline.
func (b *bench) ok(line string) string {
	b.t.Helper()
	r := b.run(strings.Fields(line))
	if r.code != 0 {
		b.t.Fatalf("kmsfs %s: exit code %d\n%s", line, r.code, r.stderr)
	}
	return strings.TrimSuffix(r.stdout, "\n")
}

// fails runs kmsfs, which must end with the code and with two lines that hold the words.
func (b *bench) fails(code int, errorWords, hintWords, line string) {
	b.t.Helper()
	b.check(b.run(strings.Fields(line)), code, errorWords, hintWords, line)
}

func (b *bench) check(r result, code int, errorWords, hintWords, line string) {
	b.t.Helper()
	lines := strings.Split(strings.TrimSuffix(r.stderr, "\n"), "\n")
	if r.code != code || len(lines) != 2 || !strings.HasPrefix(lines[0], "kmsfs: error: ") ||
		!strings.HasPrefix(lines[1], "kmsfs: hint: ") || !strings.Contains(lines[0], errorWords) ||
		!strings.Contains(lines[1], hintWords) {
		b.t.Errorf("kmsfs %s:\ngot  exit code %d, and\n%swant exit code %d, an error with %q and a hint with %q", line, r.code,
			r.stderr, code, errorWords, hintWords)
	}
}

// write makes a file.
func (b *bench) write(name, text string) {
	b.t.Helper()
	if err := os.WriteFile(filepath.Join(b.dir, name), []byte(text), 0o600); err != nil {
		b.t.Fatal(err)
	}
}

// edit replaces old by new in a file.
func (b *bench) edit(name, old, new string) {
	b.t.Helper()
	path := filepath.Join(b.dir, name)
	text, err := os.ReadFile(path)
	if err != nil {
		b.t.Fatal(err)
	}
	if !bytes.Contains(text, []byte(old)) {
		b.t.Fatalf("%s has no %q", name, old)
	}
	b.write(name, strings.Replace(string(text), old, new, 1))
}

// mkdir makes a directory.
func (b *bench) mkdir(name string) {
	b.t.Helper()
	if err := os.Mkdir(filepath.Join(b.dir, name), 0o755); err != nil {
		b.t.Fatal(err)
	}
}

// pipe is the read end of a pipe that holds text.
func (b *bench) pipe(text string) *os.File {
	b.t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := w.WriteString(text); err != nil {
		b.t.Fatal(err)
	}
	w.Close()
	b.t.Cleanup(func() { r.Close() })
	return r
}
