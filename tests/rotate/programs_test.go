package rotate

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"kmsfs/keysource"
	"kmsfs/keysource/local"
	"kmsfs/tests/internal/lab"
)

// programs work in a directory and check what they have done; each runs until it fails or its time is up.
func programs() map[string]string {
	commits, inserts, size := lab.Sized(8, 3), lab.Sized(40, 12), lab.Sized(8, 2)
	return map[string]string{
		"git": fmt.Sprintf(`git init -q repo && cd repo && git config user.email a@b && git config user.name a
			for i in $(seq %[1]d); do head -c 30000 /dev/urandom > file$i; echo $i >> log; git add -A; git commit -qm "$i"; done
			git gc -q && git fsck --strict && test "$(git rev-list --count HEAD)" = %[1]d`, commits),
		"sqlite": fmt.Sprintf(`sqlite3 db "create table t(a integer primary key, b blob)"
			for i in $(seq %d); do sqlite3 db "insert into t(b) values (randomblob(1500)), (randomblob(1500)), (randomblob(1500))"; done
			test "$(sqlite3 db 'pragma integrity_check')" = ok && test "$(sqlite3 db 'select count(*) from t')" = %d`, inserts, 3*inserts),
		"fio": fmt.Sprintf(`fio --name=v --filename=data --size=%dM --rw=randrw --bs=4k-64k --bs_unaligned=1 --verify=crc32c --do_verify=1 --fsync=32 --ioengine=psync --minimal > out`, size),
	}
}

// runPrograms runs all at once, and again until stop; it returns how often they have come to their end.
func runPrograms(t *testing.T, dir string, until *sync.WaitGroup, stop <-chan struct{}) (rounds func() int) {
	t.Helper()
	lab.Need(t, "git", "sqlite3", "fio")
	var mu sync.Mutex
	n := 0
	for name, script := range programs() {
		until.Go(func() {
			for round := 0; ; round++ {
				at := filepath.Join(dir, fmt.Sprintf("%s%d", name, round))
				if err := os.Mkdir(at, 0o755); err != nil {
					t.Error(err)
					return
				}
				cmd := exec.Command("bash", "-ec", script)
				cmd.Dir = at
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Errorf("%s: %v\n%.2000s", name, err, out)
					return
				}
				mu.Lock()
				n++
				mu.Unlock()
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	return func() int {
		mu.Lock()
		defer mu.Unlock()
		return n
	}
}

// sums are the checksums of all that is below dir.
func sums(t *testing.T, dir string) string {
	t.Helper()
	return lab.Run(t, dir, "bash", "-c", "find . -type f -print0 | sort -z | xargs -0 sha256sum")
}

// TestPrograms rotates and replaces CMKs under a mount on which git, sqlite and fio work, and rewraps. At last the old CMK is
// destroyed, and everything still opens.
func TestPrograms(t *testing.T) {
	for _, kms := range []bool{false, true} {
		t.Run(map[bool]string{false: "local", true: "kms"}[kms], func(t *testing.T) {
			k := newKeys(t)
			old := k.describe("alias/files").KeyID
			o := lab.Options{Keysource: "local:" + k.store, Flags: []string{"--key", "alias/files"}}
			if kms {
				k.env = k.user("mounter", "user")
				o = lab.Options{Keysource: k.serve().url, Env: k.env}
			}
			m := lab.MountNew(t, o)
			var wg sync.WaitGroup
			stop := make(chan struct{})
			rounds := runPrograms(t, m.Dir, &wg, stop)
			time.Sleep(200 * time.Millisecond)
			for i := range 3 {
				material := k.describe("alias/files").Material
				k.key("rotate", "alias/files")
				if kms {
					time.Sleep(noticed)
				}
				if s := k.rewrap(m.Backing); s.Failed+s.Damaged != 0 || s.Rewrapped == 0 {
					t.Errorf("rotation %d: %+v", i, s)
				}
				k.ok("verify", "--key-unused", material, "--keysource", "local:"+k.store, m.Backing)
			}
			next := k.key("create")
			k.key("alias", "update", "--key-store", k.store, "alias/files", next)
			if kms {
				time.Sleep(noticed)
			}
			var both sync.WaitGroup // in shards, and one beside them
			for _, shard := range []string{"1/2", "2/2", "1/1"} {
				both.Go(func() {
					if _, code, stderr := k.run("rewrap", "--shard", shard, m.Backing); code != 0 {
						t.Errorf("shard %s: exit code %d\n%s", shard, code, stderr)
					}
				})
			}
			both.Wait()
			close(stop)
			wg.Wait()
			if rounds() < 3 {
				t.Errorf("the programs were done %d times", rounds())
			}
			k.rewrap(m.Backing)
			before := sums(t, m.Dir)
			if err := m.Unmount(); err != nil {
				t.Fatal(err)
			}
			k.ok("verify", "--key-unused", old, "--keysource", "local:"+k.store, m.Backing)
			k.key("schedule-deletion", "--days", "7", old)
			k.destroyDue()
			if out := k.key("list"); strings.Contains(out, old) {
				t.Fatalf("the old CMK is still there: %s", out)
			}
			if kms {
				time.Sleep(noticed)
			}
			if err := m.Start(); err != nil {
				t.Fatal(err)
			}
			if after := sums(t, m.Dir); after != before || len(after) < 1000 {
				t.Errorf("before\n%s\nafter\n%s", before, after)
			}
		})
	}
}

// described is a CMK in the output of key describe.
type described struct {
	KeyID    string `json:"key_id"`
	Material string `json:"current_key_material_id"`
}

// describe is key describe.
func (k *keys) describe(key string) (d described) {
	k.t.Helper()
	k.parse(k.key("describe", "--json", key), &d)
	if d.KeyID == "" || d.Material == "" {
		k.t.Fatalf("%s: %+v", key, d)
	}
	return d
}

// later is a clock that is 40 days ahead.
type later struct{ keysource.SystemClock }

// Now implements keysource.Clock.
func (later) Now() time.Time { return time.Now().Add(40 * 24 * time.Hour) }

// destroyDue has the key store do what is due in 40 days: CMKs that were to be deleted go.
func (k *keys) destroyDue() {
	k.t.Helper()
	ctx := context.Background()
	s, err := local.Open(ctx, local.Config{Dir: k.store, Clock: later{}})
	if err != nil {
		k.t.Fatal(err)
	}
	defer s.Close()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		keys, err := s.ListKeys(ctx)
		if err != nil {
			k.t.Fatal(err)
		}
		pending := false
		for _, e := range keys {
			md, err := s.DescribeKey(ctx, keysource.KeyRef(e.KeyID))
			pending = pending || err == nil && md.KeyState == keysource.KeyStatePendingDeletion
		}
		if !pending {
			return
		}
	}
	k.t.Error("the CMK is not deleted when it is due")
}

// TestOldBackup: a backup from before a rotation opens for as long as the old key material is there, and verify says that it
// needs it.
func TestOldBackup(t *testing.T) {
	k := newKeys(t)
	m := lab.MountNew(t, lab.Options{Keysource: "local:" + k.store, Flags: []string{"--key", "alias/files"}})
	for i := range 30 {
		if err := os.WriteFile(filepath.Join(m.Dir, fmt.Sprint(i)), fmt.Append(nil, i), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	backup := filepath.Join(lab.Dir(t), "backup")
	if err := m.Unmount(); err != nil {
		t.Fatal(err)
	}
	lab.Run(t, "/", "cp", "-a", m.Backing, backup)
	material := k.describe("alias/files").Material
	k.key("rotate", "alias/files")
	k.rewrap(m.Backing)
	k.ok("verify", "--key-unused", material, m.Backing)
	out, code, _ := k.run("verify", "--key-unused", material, m.Backing, backup)
	if code != 27 || !strings.Contains(out, backup+": records: 30") || !strings.Contains(out, m.Backing+": nothing") {
		t.Errorf("exit code %d: %s", code, out)
	}
	at := lab.Subdir(t, lab.Dir(t), "restored", 0o755)
	k.ok("mount", "--read-only", backup, at)
	defer k.ok("umount", at)
	if b, err := os.ReadFile(filepath.Join(at, "7")); err != nil || string(b) != "7" {
		t.Errorf("the backup: %q, %v", b, err)
	}
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
}

// TestOutage stops the KMS in the middle of a rewrap and starts it again: the rewrap goes on. Then the mount is killed during
// one.
func TestOutage(t *testing.T) {
	k := newKeys(t)
	k.env = k.user("mounter", "user")
	s := k.serve()
	m := lab.MountNew(t, lab.Options{Keysource: s.url, Env: k.env})
	const files = 300
	for i := range files {
		if err := os.WriteFile(filepath.Join(m.Dir, fmt.Sprint(i)), fmt.Append(nil, i), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	k.key("rotate", "alias/files")
	time.Sleep(noticed)
	rewrap := func(rps string) <-chan summary {
		done := make(chan summary, 1)
		go func() {
			out, code, stderr := k.run("rewrap", "--rps", rps, m.Backing)
			if code != 0 {
				t.Errorf("rewrap: exit code %d\n%s", code, stderr)
			}
			done <- k.last(out)
		}()
		return done
	}
	done := rewrap("150")
	time.Sleep(700 * time.Millisecond)
	s.stop()
	time.Sleep(time.Second)
	k.serve()
	if got := <-done; got.Failed+got.Damaged != 0 || got.Rewrapped < files {
		t.Errorf("with the KMS away for a second: %+v", got)
	}
	k.key("rotate", "alias/files")
	time.Sleep(noticed)
	done = rewrap("300")
	time.Sleep(500 * time.Millisecond)
	if err := m.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	if got := <-done; got.Failed+got.Damaged != 0 {
		t.Errorf("with the mount killed: %+v", got)
	}
	for i := range files {
		if b, err := os.ReadFile(filepath.Join(m.Dir, fmt.Sprint(i))); err != nil || string(b) != fmt.Sprint(i) {
			t.Fatalf("file %d: %q, %v", i, b, err)
		}
	}
}

// TestNoSpace rewraps a vault on a full disk: it fails and loses nothing, and goes on where there is room.
func TestNoSpace(t *testing.T) {
	lab.NeedRoot(t)
	lab.Need(t, "mkfs.ext4")
	dir := lab.Dir(t)
	image, at := filepath.Join(dir, "image"), lab.Subdir(t, dir, "fs", 0o755)
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 48<<20); err != nil {
		t.Fatal(err)
	}
	lab.Run(t, dir, "mkfs.ext4", "-q", "-F", "-m", "0", "-O", "ea_inode", image)
	if out, err := exec.Command("mount", "-o", "loop,nodev", image, at).CombinedOutput(); err != nil {
		t.Skipf("mount: %v: %s (loop devices are needed; in a container: --privileged)", err, out)
	}
	t.Cleanup(func() { lab.Run(t, "/", "umount", at) })
	k := newKeys(t)
	m := lab.MountNew(t, lab.Options{Vault: lab.Subdir(t, at, "work", 0o755), Keysource: "local:" + k.store, Flags: []string{"--key", "alias/files"}})
	const files = 1500
	for i := range files {
		if err := os.WriteFile(filepath.Join(m.Dir, fmt.Sprint(i)), fmt.Append(nil, i), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Unmount(); err != nil {
		t.Fatal(err)
	}
	k.key("rotate", "alias/files")
	fill := filepath.Join(at, "fill")
	if out, err := exec.Command("dd", "if=/dev/zero", "of="+fill, "bs=4k").CombinedOutput(); err == nil {
		t.Fatalf("the disk is not full: %s", out)
	}
	_, code, stderr := k.run("rewrap", m.Backing)
	if code == 0 || !strings.Contains(stderr, "no space left") {
		t.Errorf("on a full disk: exit code %d\n%s", code, stderr)
	}
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	compare := func() {
		t.Helper()
		for i := range files {
			if b, err := os.ReadFile(filepath.Join(m.Dir, fmt.Sprint(i))); err != nil || string(b) != fmt.Sprint(i) {
				t.Fatalf("file %d: %q, %v", i, b, err)
			}
		}
	}
	compare()
	if err := os.Remove(fill); err != nil {
		t.Fatal(err)
	}
	if s := k.rewrap(m.Backing); s.Rewrapped < files || s.Failed+s.Damaged != 0 {
		t.Errorf("with room again: %+v", s)
	}
	if err := m.Remount(); err != nil {
		t.Fatal(err)
	}
	compare()
}
