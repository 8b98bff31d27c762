package main

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestGlusterCaches(t *testing.T) {
	active := t.TempDir()
	if _, options := glusterCaches(filepath.Join(active, "nothing")); options != nil {
		t.Errorf("no GlusterFS: %v", options)
	}
	for _, layer := range []string{"vol-client-0", "vol-replicate-0", "vol-dht", "vol-utime", "vol", "meta-autoload"} {
		if err := os.Mkdir(filepath.Join(active, layer), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if _, options := glusterCaches(active); options != nil {
		t.Errorf("a client that does not cache: %v", options)
	}
	for _, layer := range []string{"vol-md-cache", "vol-write-behind"} {
		if err := os.Mkdir(filepath.Join(active, layer), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if volume, options := glusterCaches(active); volume != "vol" || !slices.Equal(options, []string{"stat-prefetch", "write-behind"}) {
		t.Errorf("a client that does: %s, %v", volume, options)
	}
}
