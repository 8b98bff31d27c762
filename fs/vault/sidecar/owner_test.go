package sidecar_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/vault/sidecar"
)

// TestOwner: what root does in the vault of a user stays usable by the user: the lock and a replaced table are the user's.
func TestOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can work in another user's vault: run the test as root")
	}
	dir := t.TempDir()
	d, err := backing.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.Mkdir("keys", 0o700); err != nil {
		t.Fatal(err)
	}
	const user = 4711
	if err := os.Chown(filepath.Join(dir, "keys"), user, user); err != nil {
		t.Fatal(err)
	}
	s, err := sidecar.Open(d, volume)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	w := s.NewWriter(time.Now)
	defer w.Close()
	locs, err := w.Append([]*envelope.Record{record(0, "old", 1)})
	if err != nil {
		t.Fatal(err)
	}
	table := filepath.Join(dir, "keys", envelope.TableName(locs[0].Table))
	if st, err := os.Stat(table); err != nil || st.Sys().(*syscall.Stat_t).Uid != user {
		t.Errorf("a table that root begins is not its owner's: %v, %v", st, err)
	}
	if left, err := s.Replace(locs[0].Table, []sidecar.Change{{Slot: 1, Seen: seen(t, s, locs[0].Table)[1], Record: record(0, "new", 1)}}); err != nil || len(left) > 0 {
		t.Fatal(left, err)
	}
	for _, path := range []string{table, filepath.Join(dir, "keys.lock")} {
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if own := st.Sys().(*syscall.Stat_t); own.Uid != user || own.Gid != user || st.Mode() != 0o600 {
			t.Errorf("%s is of user %d, mode %v", path, own.Uid, st.Mode())
		}
	}
}
