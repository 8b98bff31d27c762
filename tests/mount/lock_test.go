package mount_test

import (
	"testing"

	"kmsfs/tests/internal/lab"
)

func startLocker(t *testing.T, file string) (ask func(string) string) {
	t.Helper()
	return lab.StartLocker(t, file, childEnv+"=locker")
}

// TestLocks holds that locks of all three kinds keep two processes apart, in ranges where they have ranges, and end
// with their process.
func TestLocks(t *testing.T) {
	steps := []struct {
		who  int
		what string
		want string
	}{
		{0, "flock ex", "ok"}, {1, "flock sh", "EAGAIN"}, {1, "flock ex", "EAGAIN"}, {0, "flock sh", "ok"}, {1, "flock sh", "ok"},
		{0, "flock ex", "EAGAIN"}, {1, "flock un", "ok"}, {0, "flock ex", "ok"}, {0, "flock un", "ok"},

		{0, "fcntl wr 0 100", "ok"}, {1, "fcntl wr 100 50", "ok"}, {1, "fcntl rd 99 1", "EAGAIN"}, {0, "fcntl wr 120 1", "EAGAIN"},
		{0, "fcntl rd 0 100", "ok"}, {1, "fcntl rd 0 10", "ok"}, {1, "fcntl wr 0 10", "EAGAIN"}, {0, "fcntl un 0 0", "ok"},
		{1, "fcntl wr 0 0", "ok"}, {0, "fcntl rd 1099511627776 1", "EAGAIN"}, {1, "fcntl un 0 0", "ok"},

		{0, "ofd wr 0 10", "ok"}, {1, "ofd wr 5 10", "EAGAIN"}, {1, "fcntl wr 5 10", "EAGAIN"}, {1, "ofd wr 10 10", "ok"},
		{0, "ofd un 0 0", "ok"}, {1, "ofd wr 0 0", "ok"}, {0, "fcntl rd 3 1", "EAGAIN"}, {0, "flock ex", "ok"},
	}
	modes(t, "", func(t *testing.T, m *lab.Mount) {
		file := m.Dir + "/file"
		t.Run("two", func(t *testing.T) {
			ask := []func(string) string{startLocker(t, file), startLocker(t, file)}
			for i, s := range steps {
				if got := ask[s.who](s.what); got != s.want {
					t.Errorf("step %d: %d %s: %s, want %s", i, s.who, s.what, got, s.want)
				}
			}
		})
		third := startLocker(t, file) // the two are gone, and held locks when they went
		for _, lock := range []string{"flock ex", "fcntl wr 0 0", "ofd un 0 0"} {
			if got := third(lock); got != "ok" {
				t.Errorf("after the others' end: %s: %s", lock, got)
			}
		}
	})
}
