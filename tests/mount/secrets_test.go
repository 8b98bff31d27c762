package mount_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
	"kmsfs/keysource"
	"kmsfs/keysource/local"
	"kmsfs/keysource/passphrase"
	"kmsfs/tests/internal/lab"
)

// TestSecretsInMemory searches all of the daemon's memory. Of the passphrase there is what the hash of Argon2 has left behind, once. The data
// key of a file that is in use is there, and gone when it has been purged and nobody uses the file; so is the volume key. Nothing
// is there in hexadecimal or base64.
func TestSecretsInMemory(t *testing.T) {
	lab.NeedRoot(t)
	if !lab.IsKMSFS() || lab.Race {
		t.Skip("is about the memory of kmsfs, without that of the race detector")
	}
	kmsfs, dir := lab.Binary(t, "cmd/kmsfs"), lab.Dir(t)
	point, keys, vaultDir := lab.Subdir(t, dir, "mount", 0o755), filepath.Join(dir, "keys"), filepath.Join(dir, "vault")
	secret := []byte("correct horse battery staple 7361")
	word := filepath.Join(dir, "word")
	check(t, os.WriteFile(word, secret, 0o600), "write")
	start := exec.Command(kmsfs, "mount", "--init", "--key-store", keys, "--passphrase-from", "command:/bin/cat "+word, vaultDir, point)
	out, err := start.CombinedOutput()
	check(t, err, string(out))
	t.Cleanup(func() { lab.Run(t, dir, kmsfs, "umount", point) })
	check(t, os.WriteFile(point+"/file", []byte("text"), 0o600), "write")
	got, err := os.ReadFile(point + "/file")
	check(t, err, "read")
	if string(got) != "text" {
		t.Fatalf("%q", got)
	}
	pid := strings.TrimSpace(lab.Run(t, dir, "sh", "-c", "pgrep -f '^kmsfs daemon "+vaultDir+" '"))

	ctx := context.Background()
	store, err := local.Open(ctx, local.Config{Dir: keys, Master: local.Master{Passphrase: func(context.Context, passphrase.Purpose) ([]byte, error) {
		return bytes.Clone(secret), nil
	}}})
	check(t, err, "open the key store")
	defer store.Close()
	top, err := backing.OpenDir(vaultDir)
	check(t, err, "open")
	defer top.Close()
	cfg, err := vault.ReadConfig(top)
	check(t, err, "vault.json")
	attribute := func(name string) []byte {
		t.Helper()
		b := make([]byte, 4096)
		n, err := unix.Getxattr(point+"/file", "user.kmsfs."+name, b)
		check(t, err, name)
		out, err := hex.DecodeString(string(b[:n]))
		check(t, err, name)
		return out
	}
	open := func(blob []byte, of map[string]string) []byte {
		t.Helper()
		r, err := store.Decrypt(ctx, keysource.DecryptInput{CiphertextBlob: blob, EncryptionContext: of})
		check(t, err, "decrypt")
		return r.Plaintext.Bytes()
	}
	dataKey := open(attribute("wrapped-key"), envelope.FileContext(cfg.Volume, envelope.FileID(attribute("file-id"))))
	volumeKey := open(cfg.Wrappings[0].Blob, envelope.VolumeContext(cfg.Volume))

	none := func(what string, secret []byte, most int) {
		t.Helper()
		if n := inMemory(t, pid, secret); n > most {
			t.Errorf("the %s is %d times in the memory of the daemon", what, n)
		}
		for _, text := range []string{hex.EncodeToString(secret), base64.StdEncoding.EncodeToString(secret)} {
			if n := inMemory(t, pid, []byte(text)); n > 0 {
				t.Errorf("the %s is %d times in the memory of the daemon, as text", what, n)
			}
		}
	}
	none("passphrase", secret, 1)
	if n := inMemory(t, pid, dataKey); n == 0 {
		t.Fatal("the data key of a file in use is not found: nothing is tested")
	} else {
		t.Logf("the data key of a file in use is there %d times", n)
	}
	check(t, os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0), "drop caches")
	for end := time.Now().Add(60 * time.Second); inMemory(t, pid, dataKey) > 0 && time.Now().Before(end); time.Sleep(500 * time.Millisecond) {
		lab.Run(t, dir, kmsfs, "ctl", "flush", point)
		lab.Run(t, dir, kmsfs, "ctl", "purge", point)
	}
	none("data key", dataKey, 0)
	none("volume key", volumeKey, 0)
}

// inMemory counts how often secret stands in the memory of a process, in what is no copy of a file.
func inMemory(t *testing.T, pid string, secret []byte) (count int) {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%s/maps", pid))
	check(t, err, "maps")
	mem, err := os.Open(fmt.Sprintf("/proc/%s/mem", pid))
	check(t, err, "mem")
	defer mem.Close()
	for line := range strings.Lines(string(maps)) {
		var from, to uint64
		var perm string
		_, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &perm)
		check(t, err, line)
		if !strings.HasPrefix(perm, "rw") {
			continue
		}
		const size = 1 << 20
		b := make([]byte, size+len(secret)-1)
		for at := from; at < to; at += size {
			n, err := mem.ReadAt(b[:min(uint64(len(b)), to-at)], int64(at))
			if err != nil { // it has just been given back
				continue
			}
			count += bytes.Count(b[:n], secret)
		}
	}
	return count
}
