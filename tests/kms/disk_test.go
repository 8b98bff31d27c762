package kms_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"kmsfs/tests/internal/lab"
)

// smallDisk mounts a file system of 4 MiB, and returns its directory and how to fill and empty it.
func smallDisk(t *testing.T) (dir string, fill, free func()) {
	t.Helper()
	lab.NeedRoot(t)
	dir = lab.Subdir(t, lab.Dir(t), "disk", 0o700)
	if err := unix.Mount("none", dir, "tmpfs", unix.MS_NODEV, "size=4m"); err != nil {
		t.Skipf("mount tmpfs: %v (in a container: --cap-add SYS_ADMIN)", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	path := filepath.Join(dir, "filler")
	fill = func() {
		t.Helper()
		f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for err == nil {
			_, err = f.Write(make([]byte, 4096))
		}
		if !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
	}
	free = func() {
		t.Helper()
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	return dir, fill, free
}

// TestFullDiskAudit: where the audit log has no room, calls fail before they do anything, and go on when it has.
func TestFullDiskAudit(t *testing.T) {
	t.Parallel()
	disk, fill, free := smallDisk(t)
	b := newBench(t)
	k := b.user("alice", "user", "administrator")
	trail := filepath.Join(disk, "audit.log")
	b.flags = []string{"--audit", trail}
	b.start()
	c := sdk(b.urls[0], k, nil)
	generate := func() error {
		_, err := c.GenerateDataKey(t.Context(), &kms.GenerateDataKeyInput{KeyId: aws.String("alias/first"), KeySpec: types.DataKeySpecAes256})
		return err
	}
	create := func() error {
		_, err := c.CreateKey(t.Context(), &kms.CreateKeyInput{})
		return err
	}
	keys := func() int {
		return strings.Count(b.ok("key", "list"), "\n")
	}
	fill()
	before := keys()
	if err := create(); !is[*types.KMSInternalException](err) {
		t.Errorf("on a full disk: %v", err)
	}
	if n := keys(); n != before {
		t.Errorf("an unaudited call made a CMK: %d, %d before", n, before)
	}
	if text := b.log.String(); !strings.Contains(text, "no space left on device") || !strings.Contains(text, "audit log") {
		t.Errorf("the log says %s", text)
	}
	free()
	if err := generate(); err != nil {
		t.Fatalf("with room again: %v", err)
	}
	fill()
	answered := 1
	for ; answered < 10000; answered++ {
		if err := generate(); err != nil {
			if !is[*types.KMSInternalException](err) {
				t.Errorf("call %d: %v", answered, err)
			}
			break
		}
	}
	if answered < 100 || answered == 10000 {
		t.Errorf("%d calls were answered on a full disk", answered)
	}
	free()
	if err := create(); err != nil {
		t.Errorf("with room again: %v", err)
	}
	b.stop()
	if out := b.ok("kms", "audit", "verify", trail); !strings.HasPrefix(strings.Join(strings.Fields(out), " "), "lines "+itoa(answered+1)+" ") {
		t.Errorf("%d calls were answered, and the log has %s", answered+1, out)
	}
}

// TestFullDiskStore: where the key store has no room, changes fail and the use of CMKs goes on; nothing is lost.
func TestFullDiskStore(t *testing.T) {
	t.Parallel()
	disk, fill, free := smallDisk(t)
	b := newBench(t)
	k := b.user("alice", "user", "administrator")
	moved := filepath.Join(disk, "keys")
	lab.Run(t, b.dir, "cp", "-a", b.store(), moved)
	lab.Run(t, b.dir, "rm", "-r", b.store())
	if err := os.Symlink(moved, b.store()); err != nil {
		t.Fatal(err)
	}
	b.flags = []string{"--audit", filepath.Join(b.dir, "audit.log")}
	b.start()
	c := sdk(b.urls[0], k, nil)
	box, err := c.Encrypt(t.Context(), &kms.EncryptInput{KeyId: aws.String("alias/first"), Plaintext: []byte("secret")})
	if err != nil {
		t.Fatal(err)
	}
	fill()
	for range 3 {
		if _, err := c.CreateKey(t.Context(), &kms.CreateKeyInput{Description: aws.String(strings.Repeat("x", 8192))}); !is[*types.KMSInternalException](err) {
			t.Errorf("a change on a full disk: %v", err)
		}
		out, err := c.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: box.CiphertextBlob})
		if err != nil || string(out.Plaintext) != "secret" {
			t.Errorf("the use on a full disk: %v", err)
		}
	}
	if !strings.Contains(b.log.String(), "no space left on device") {
		t.Errorf("the log says %s", b.log)
	}
	b.kill()
	b.start()
	c = sdk(b.urls[0], k, nil)
	if out, err := c.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: box.CiphertextBlob}); err != nil || string(out.Plaintext) != "secret" {
		t.Errorf("after a crash on a full disk: %v", err)
	}
	free()
	if _, err := c.CreateKey(t.Context(), &kms.CreateKeyInput{}); err != nil {
		t.Errorf("with room again: %v", err)
	}
	b.stop()
}
