package passphrase

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// inputs are what every source may get.
func inputs() []struct {
	name, in, want string
	err            error
} {
	long := strings.Repeat("x", MaxSize)
	return []struct {
		name, in, want string
		err            error
	}{
		{"plain", "open sesame", "open sesame", nil},
		{"newline", "open sesame\n", "open sesame", nil},
		{"carriage return and newline", "open sesame\r\n", "open sesame", nil},
		{"two newlines", "a\n\n", "a\n", nil},
		{"spaces stay", " a b ", " a b ", nil},
		{"carriage return alone stays", "a\r", "a\r", nil},
		{"not UTF-8", "\xff\x01", "\xff\x01", nil},
		{"longest", long, long, nil},
		{"longest with newline", long + "\n", long, nil},
		{"too long", long + "x", "", ErrTooLong},
		{"much too long", strings.Repeat("x", 1<<20), "", ErrTooLong},
		{"empty", "", "", ErrEmpty},
		{"only a newline", "\n", "", ErrEmpty},
	}
}

// check compares an answer with what was wanted.
func check(t *testing.T, name string, got []byte, err error, want string, wantErr error) {
	t.Helper()
	if !errors.Is(err, wantErr) || string(got) != want {
		t.Errorf("%s: got %q, %v, want %q, %v", name, got, err, want, wantErr)
	}
}

func TestFD(t *testing.T) {
	for _, test := range inputs() {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = w.WriteString(test.in); _ = w.Close() }()
		fd, err := unix.Dup(int(r.Fd()))
		if err != nil {
			t.Fatal(err)
		}
		_ = r.Close()
		source := FD(fd)
		got, err := source(t.Context(), Unlock)
		check(t, test.name, got, err, test.want, test.err)
		if _, err := source(t.Context(), Unlock); err == nil {
			t.Errorf("%s: a second call succeeded", test.name)
		}
	}
	if _, err := FD(12345)(t.Context(), Unlock); err == nil {
		t.Error("a descriptor that is not open was read")
	}
}

func TestFDContextEnds(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	fd, err := unix.Dup(int(r.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	_ = r.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := FD(fd)(ctx, Unlock); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestCommand(t *testing.T) {
	for _, test := range inputs() {
		file := t.TempDir() + "/p"
		if err := os.WriteFile(file, []byte(test.in), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := Command([]string{"cat", file}, nil)(t.Context(), New)
		check(t, test.name, got, err, test.want, test.err)
	}
}

func TestCommandFails(t *testing.T) {
	var stderr bytes.Buffer
	_, err := Command([]string{"sh", "-c", "echo secret; echo reason >&2; exit 3"}, &stderr)(t.Context(), Unlock)
	if err == nil || strings.Contains(err.Error(), "secret") || stderr.String() != "reason\n" {
		t.Errorf("got %v, standard error %q", err, stderr.String())
	}
	for _, argv := range [][]string{nil, {""}, {"/no/such/program"}, {"echo a"}} {
		if _, err := Command(argv, nil)(t.Context(), Unlock); err == nil {
			t.Errorf("%q succeeded", argv)
		}
	}
	// No shell sees the arguments.
	if got, err := Command([]string{"printf", "%s", "$HOME;`x`"}, nil)(t.Context(), Unlock); string(got) != "$HOME;`x`" {
		t.Errorf("got %q, %v", got, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := Command([]string{"sleep", "60"}, nil)(ctx, Unlock); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// openPTY returns the master side of a new terminal, and the path of the other side.
func openPTY(t *testing.T) (*os.File, string) {
	t.Helper()
	m, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip("needs /dev/ptmx:", err)
	}
	t.Cleanup(func() { _ = m.Close() })
	n, err := unix.IoctlGetInt(int(m.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(m.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Skip("needs a pseudo terminal:", err)
	}
	path := fmt.Sprintf("/dev/pts/%d", n)
	// Keep it open, or its settings go with the last closing.
	keep, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip("needs /dev/pts:", err)
	}
	t.Cleanup(func() { _ = keep.Close() })
	return m, path
}

// person types lines at each prompt and returns all that the terminal showed.
func person(t *testing.T, m *os.File, lines ...string) <-chan string {
	t.Helper()
	shown := make(chan string, 1)
	go func() {
		var all []byte
		buf := make([]byte, 1024)
		for _, line := range lines {
			for !bytes.HasSuffix(all, []byte(": ")) {
				n, err := m.Read(buf)
				if err != nil {
					break
				}
				all = append(all, buf[:n]...)
			}
			all = append(all, '|')
			_, _ = m.WriteString(line)
		}
		shown <- string(all)
	}()
	return shown
}

func TestTerminal(t *testing.T) {
	for _, test := range []struct {
		name    string
		purpose Purpose
		lines   []string
		want    string
		err     error
	}{
		{"once", Unlock, []string{"open sesame\n"}, "open sesame", nil},
		{"twice", New, []string{"open sesame\n", "open sesame\n"}, "open sesame", nil},
		{"differ", New, []string{"open sesame\n", "close\n"}, "", ErrMismatch},
		{"empty", Unlock, []string{"\n"}, "", ErrEmpty},
		{"too long", Unlock, []string{strings.Repeat("x", MaxSize+2) + "\n"}, "", ErrTooLong},
	} {
		m, path := openPTY(t)
		shown := person(t, m, test.lines...)
		got, err := Terminal(TerminalConfig{Path: path})(t.Context(), test.purpose)
		check(t, test.name, got, err, test.want, test.err)
		if s := <-shown; strings.Contains(s, "sesame") || !strings.Contains(s, "Passphrase") {
			t.Errorf("%s: the terminal showed %q", test.name, s)
		}
	}
}

func TestTerminalContextEnds(t *testing.T) {
	m, path := openPTY(t)
	before, err := unix.IoctlGetTermios(int(m.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := Terminal(TerminalConfig{Path: path})(ctx, Unlock); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	after, err := unix.IoctlGetTermios(int(m.Fd()), unix.TCGETS)
	if err != nil || *after != *before || after.Lflag&unix.ECHO == 0 {
		t.Error("the terminal was left silent")
	}
}

func TestNoTerminal(t *testing.T) {
	for _, path := range []string{"/dev/null", "/no/such/terminal"} {
		if _, err := Terminal(TerminalConfig{Path: path})(t.Context(), Unlock); !errors.Is(err, ErrNoTerminal) {
			t.Errorf("%s: got %v, want ErrNoTerminal", path, err)
		}
	}
}
