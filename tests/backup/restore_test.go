package backup

import (
	"os"
	"os/exec"
	"testing"
	"time"

	"kmsfs/tests/internal/lab"
)

// TestRestore: a vault under load is backed up with restic, its CMK rotated and its keys rewrapped, and the vault destroyed. The
// backup, restored by another user with a copy of the key store, has what was there, and needs the old key material, which the
// vault did not any more.
func TestRestore(t *testing.T) {
	t.Parallel()
	lab.NeedRoot(t)
	lab.Need(t, "restic", "setpriv")
	b := newBench(t)
	live := b.mount(b.at("vault"))
	plant(t, live)
	want := contents(t, live, nil)
	l := startLoad(t, live, 3)
	env := b.resticRepo()
	began := time.Now()
	b.script(b.recipe("restic.sh"), append(env, "VAULT="+b.at("vault"))...)
	backedUp := span{began, time.Now()}

	old := b.material()
	b.ok("key", "rotate", "--key-store", b.at("keys"), "alias/files")
	unused := []string{"verify", "--key-unused", old, "--key-store", b.at("keys")}
	b.fails(27, "is needed", append(unused, b.at("vault"))...)
	b.ok("rewrap", b.at("vault"))
	b.ok(append(unused, b.at("vault"))...)
	l.end()
	l.moment(t, "after the rewrap", contents(t, live, nil), span{time.Now(), time.Now()})
	b.umount(live)
	if err := os.RemoveAll(b.at("vault")); err != nil {
		t.Fatal(err)
	}

	// As somebody who has nothing but the repository and a copy of the key store.
	b.mkdir("theirs")
	b.script(`cp -r keys theirs/keys; cp -r restic theirs/repository; chown -R 65534:65534 theirs`)
	theirs := func(script string, more ...string) (string, error) {
		more = append(more, "SCRIPT="+script, "HOME="+b.at("theirs"), "RESTIC_CACHE_DIR="+b.at("theirs/cache"),
			"RESTIC_REPOSITORY="+b.at("theirs/repository"), "RESTIC_PASSWORD=secret", "TARGET="+b.at("theirs/restored"))
		return b.tryScript(asNobody+` sh -euc "$SCRIPT"`, more...)
	}
	if out, err := theirs(b.recipe("restic-restore.sh")); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	restored := b.at("theirs/restored") + b.at("vault")
	out, err := theirs(`kmsfs verify --key-unused "$OLD" --key-store "$STORE" "$VAULT"`, "OLD="+old, "STORE="+b.at("theirs/keys"), "VAULT="+restored)
	if exit, ok := err.(*exec.ExitError); !ok || exit.ExitCode() != 27 {
		t.Errorf("the old backup needs the old key material: %v\n%s", err, out)
	}
	if out, err := theirs(`kmsfs verify --key-store "$STORE" "$VAULT"`, "STORE="+b.at("theirs/keys"), "VAULT="+restored); err != nil {
		t.Errorf("verify of the restored backup: %v\n%s", err, out)
	}
	before := storedState(t, restored)
	all := b.readAs(t, restored, b.at("theirs/keys"))
	l.moment(t, "the restored backup", all, backedUp)
	compare(t, "the restored backup", still(all), want)
	for _, path := range changed(before, storedState(t, restored)) {
		t.Errorf("the read-only mount has changed %s", path)
	}
}

// readAs mounts a vault of nobody's read-only and returns what it contains: as nobody or, where users may not mount here, as root.
func (b *bench) readAs(t *testing.T, vault, keys string) (all map[string]string) {
	t.Helper()
	st, err := os.Stat("/dev/fuse")
	_, missing := exec.LookPath("fusermount3")
	if err != nil || missing != nil || st.Mode().Perm()&0o006 != 0o006 {
		t.Log("mounted as root: /dev/fuse is closed to users other than root (chmod 666 /dev/fuse), or fusermount3 is missing")
		b.script(`chown -R 0:0 "$STORE"`, "STORE="+keys)
		return contents(t, b.mount(vault, "--read-only", "--key-store", keys), nil)
	}
	dir := lab.Subdir(t, lab.Dir(t), "mount", 0o755)
	if err := os.Chown(dir, lab.Nobody, lab.Nobody); err != nil {
		t.Fatal(err)
	}
	env := []string{"STORE=" + keys, "VAULT=" + vault, "DIR=" + dir}
	b.script(asNobody+` kmsfs mount --read-only --key-store "$STORE" "$VAULT" "$DIR"`, env...)
	t.Cleanup(func() { b.script(asNobody+` kmsfs umount "$DIR"`, env...) })
	lab.As(lab.Nobody, func() { all = contents(t, dir, nil) })
	return all
}

// asNobody runs a command as another user.
const asNobody = "setpriv --reuid=65534 --regid=65534 --clear-groups"

// material is the key material of the CMK now.
func (b *bench) material() string {
	b.t.Helper()
	var key struct {
		Material string `json:"current_key_material_id"`
	}
	b.json(b.ok("key", "describe", "--json", "--key-store", b.at("keys"), "alias/files"), &key)
	if len(key.Material) != 64 {
		b.t.Fatalf("key material %q", key.Material)
	}
	return key.Material
}

// resticRepo makes a repository of restic and returns the environment that names it.
func (b *bench) resticRepo() []string {
	b.t.Helper()
	env := []string{"RESTIC_REPOSITORY=" + b.at("restic")}
	b.script("restic -q init", env...)
	return env
}

// recipe is a file of recipes as a command, where every user can run it.
func (b *bench) recipe(name string) string {
	b.t.Helper()
	path := b.at(name)
	lab.Copy(b.t, "recipes/"+name, path)
	return path
}
