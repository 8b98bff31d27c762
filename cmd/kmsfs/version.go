package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// versionInfo is the output of version.
type versionInfo struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	Modified bool   `json:"modified,omitempty"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

// versionCommand is kmsfs version.
func (a *app) versionCommand() *cobra.Command {
	var out outputFlags
	cmd := &cobra.Command{
		Use: "version", Short: "Show the version", Long: "Show the version, the commit it was built from and the Go that built it.",
		Args: args(),
		RunE: func(*cobra.Command, []string) error {
			v := version()
			if out.json {
				return writeJSON(a.stdout, v)
			}
			text := "kmsfs " + v.Version
			if v.Revision != "" {
				text += " " + v.Revision
			}
			if v.Modified {
				text += " (modified)"
			}
			_, err := fmt.Fprintf(a.stdout, "%s %s %s\n", text, v.Go, v.Platform)
			return err
		},
	}
	out.add(cmd.Flags())
	return cmd
}

// version reads what the go command wrote into the program.
func version() versionInfo {
	v := versionInfo{Version: "(devel)", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	b, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	if b.Main.Version != "" {
		v.Version = b.Main.Version
	}
	for _, s := range b.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Revision = s.Value[:min(len(s.Value), 12)]
		case "vcs.modified":
			v.Modified = s.Value == "true"
		}
	}
	return v
}
