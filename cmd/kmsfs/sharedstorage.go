package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// checkSharedStorage refuses a vault on storage of which is known that several hosts would overwrite there what the others have
// written: a GlusterFS client that caches.
func checkSharedStorage(vaultDir string) error {
	volume, options := glusterCaches(filepath.Join(mountRoot(vaultDir), ".meta/graphs/active"))
	if len(options) == 0 {
		return nil
	}
	return hintf(faultf(errUsage, "the GlusterFS volume that the vault %s is on caches in its clients (%s): with --shared data would be lost", vaultDir,
		strings.Join(options, ", ")),
		"for o in %s; do gluster volume set %s performance.$o off; done; mount the volume with attribute-timeout=0,entry-timeout=0",
		strings.Join(options, " "), quote(volume))
}

// mountRoot returns the root of the file system that dir is on.
func mountRoot(dir string) string {
	dir, err := filepath.EvalSymlinks(dir)
	if err == nil {
		dir, err = filepath.Abs(dir)
	}
	var st, up unix.Stat_t
	if err != nil || unix.Stat(dir, &st) != nil {
		return dir
	}
	for dir != "/" && unix.Stat(filepath.Dir(dir), &up) == nil && up.Dev == st.Dev {
		dir = filepath.Dir(dir)
	}
	return dir
}

// glusterCaches returns the performance options that make the client cache, by the layers that it tells of in the
// directory active, and its volume; none where it is no such client.
func glusterCaches(active string) (volume string, options []string) {
	layers, err := os.ReadDir(active)
	if err != nil {
		return "", nil
	}
	for _, l := range layers {
		for layer, option := range map[string]string{"md-cache": "stat-prefetch", "quick-read": "quick-read", "io-cache": "io-cache",
			"read-ahead": "read-ahead", "write-behind": "write-behind", "open-behind": "open-behind", "readdir-ahead": "readdir-ahead"} {
			if v, ok := strings.CutSuffix(l.Name(), "-"+layer); ok {
				volume, options = v, append(options, option)
			}
		}
	}
	slices.Sort(options)
	return volume, options
}
