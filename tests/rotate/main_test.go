// Package rotate tests what becomes of mounts, and of the files on them, when the CMK is rotated, replaced and disabled
// and the vault rewrapped, with the load going on: through the local key store and through the KMS protocol.
package rotate

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"kmsfs/tests/internal/lab"
)

// keys is a key store and the program.
type keys struct {
	t       *testing.T
	program string
	store   string
	env     []string
}

// newKeys makes a key store with the CMK alias/files.
func newKeys(t *testing.T) *keys {
	t.Helper()
	if !lab.IsKMSFS() {
		t.Skip("is about the keys of kmsfs: unset KMSFS_TEST_FS")
	}
	k := &keys{t: t, program: lab.Binary(t, "cmd/kmsfs"), store: filepath.Join(lab.Dir(t), "keys")}
	k.key("create", "--alias", "alias/files")
	return k
}

// key is kmsfs key on the store; it must succeed.
func (k *keys) key(verb string, args ...string) string {
	k.t.Helper()
	return k.ok(append([]string{"key", verb, "--key-store", k.store}, args...)...)
}

// ok runs the program, which must succeed.
func (k *keys) ok(args ...string) string {
	k.t.Helper()
	out, code, stderr := k.run(args...)
	if code != 0 {
		k.t.Fatalf("kmsfs %s: exit code %d\n%s", strings.Join(args, " "), code, stderr)
	}
	return out
}

// run runs the program.
func (k *keys) run(args ...string) (stdout string, code int, stderr string) {
	k.t.Helper()
	cmd := exec.Command(k.program, args...)
	cmd.Env = append(os.Environ(), k.env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		k.t.Fatal(err)
	}
	return strings.TrimSpace(out.String()), cmd.ProcessState.ExitCode(), errs.String()
}

// summary is the last line of a rewrap.
type summary struct {
	Records, Behind, Rewrapped, Failed, Damaged, Calls int64
}

// rewrap rewraps; it must succeed.
func (k *keys) rewrap(args ...string) (s summary) {
	k.t.Helper()
	return k.last(k.ok(append([]string{"rewrap"}, args...)...))
}

// last parses the last line that a rewrap has printed.
func (k *keys) last(out string) (s summary) {
	k.t.Helper()
	k.parse(out[strings.LastIndexByte(out, '\n')+1:], &s)
	return s
}

// parse reads JSON.
func (k *keys) parse(s string, v any) {
	k.t.Helper()
	if err := json.Unmarshal([]byte(s), v); err != nil {
		k.t.Errorf("%v: %s", err, s)
	}
}

// server is kmsfs kms serve on a unix socket; stop ends it.
type server struct {
	url  string
	stop func()
}

// serve starts the server on the key store.
func (k *keys) serve() server {
	k.t.Helper()
	socket := filepath.Join(filepath.Dir(k.store), "kms.socket")
	cmd := exec.Command(k.program, "kms", "serve", "--key-store", k.store, "--listen", "unix:"+socket)
	var log bytes.Buffer
	cmd.Stderr = &log
	out, err := cmd.StdoutPipe()
	if err != nil {
		k.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		k.t.Fatal(err)
	}
	stop := sync.OnceFunc(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			k.t.Errorf("the server ended with %v\n%s", err, log.String())
		}
	})
	k.t.Cleanup(stop)
	if !bufio.NewScanner(out).Scan() {
		k.t.Fatal("the server does not listen")
	}
	return server{"awskms:///alias/files?region=local&endpoint=" + url.QueryEscape("unix:"+socket), stop}
}

// user makes a user with a policy and returns the environment of who calls as him.
func (k *keys) user(name, policy string) []string {
	k.t.Helper()
	k.ok("kms", "user", "create", name, "--policy", policy, "--key-store", k.store)
	var key struct {
		ID     string `json:"access_key_id"`
		Secret string `json:"secret_access_key"`
	}
	if err := json.Unmarshal([]byte(k.ok("kms", "user", "key", "create", name, "--json", "--key-store", k.store)), &key); err != nil {
		k.t.Fatal(err)
	}
	return []string{"AWS_ACCESS_KEY_ID=" + key.ID, "AWS_SECRET_ACCESS_KEY=" + key.Secret, "AWS_EC2_METADATA_DISABLED=true",
		"AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null"}
}

// load makes, overwrites, reads, renames and deletes files on a mount, and knows what they hold.
type load struct {
	t    *testing.T
	dir  string
	stop atomic.Bool
	wg   sync.WaitGroup
	mu   sync.Mutex
	want map[string][]byte // of the files that no worker is changing
	ops  atomic.Int64
}

// startLoad starts workers, each with files of its own.
func startLoad(t *testing.T, dir string, workers int) *load {
	l := &load{t: t, dir: dir, want: map[string][]byte{}}
	for w := range workers {
		l.wg.Go(func() {
			if err := l.work(w); err != nil {
				t.Errorf("worker %d: %v", w, err)
			}
		})
	}
	return l
}

func (l *load) work(w int) error {
	r := mrand.New(mrand.NewPCG(uint64(w), 1))
	mine := map[string][]byte{}
	var names []string
	for i := 0; !l.stop.Load(); i++ {
		l.ops.Add(1)
		switch op := r.IntN(10); {
		case op < 5 || len(names) == 0:
			name := filepath.Join(l.dir, fmt.Sprintf("w%d-%d", w, i))
			b := make([]byte, r.IntN(20000))
			rand.Read(b)
			if err := os.WriteFile(name, b, 0o600); err != nil {
				return err
			}
			mine[name] = b
			names = append(names, name)
		case op < 7:
			name := names[r.IntN(len(names))]
			if b, err := os.ReadFile(name); err != nil || !bytes.Equal(b, mine[name]) {
				return errors.Join(err, fmt.Errorf("%s: %d bytes, not %d", name, len(b), len(mine[name])))
			}
		case op < 8:
			at := r.IntN(len(names))
			to := names[at] + "r"
			if err := os.Rename(names[at], to); err != nil {
				return err
			}
			mine[to] = mine[names[at]]
			delete(mine, names[at])
			names[at] = to
		default:
			at := r.IntN(len(names))
			if err := os.Remove(names[at]); err != nil {
				return err
			}
			delete(mine, names[at])
			names[at] = names[len(names)-1]
			names = names[:len(names)-1]
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, b := range mine {
		l.want[name] = b
	}
	return nil
}

// end stops the load.
func (l *load) end() {
	l.stop.Store(true)
	l.wg.Wait()
}

// compare reads all files.
func (l *load) compare() {
	l.t.Helper()
	for name, want := range l.want {
		if b, err := os.ReadFile(name); err != nil || !bytes.Equal(b, want) {
			l.t.Fatalf("%s: %d bytes of %d, %v", name, len(b), len(want), err)
		}
	}
	if entries, err := os.ReadDir(l.dir); err != nil || len(entries) != len(l.want) {
		l.t.Errorf("%d files of %d, %v", len(entries), len(l.want), err)
	}
}

// killed runs the program and ends it with SIGKILL after a while.
func (k *keys) killed(after time.Duration, args ...string) {
	k.t.Helper()
	cmd := exec.Command(k.program, args...)
	cmd.Env = append(os.Environ(), k.env...)
	if err := cmd.Start(); err != nil {
		k.t.Fatal(err)
	}
	time.Sleep(after)
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}
