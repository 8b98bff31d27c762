package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/spf13/cobra"
)

// ctlCommand is kmsfs ctl.
func (a *app) ctlCommand() *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "ctl",
		Short: "Control the daemon of a mount",
		Long: `Control the daemon of a mount, over its control socket. The mount is named by its mountpoint or, where the vault has one mount
here, by its vault. The user who mounted and root may.`,
	})
	cmd.AddCommand(a.ctlPurgeCommand(), a.ctlFlushCommand(), a.ctlMetricsCommand(), a.ctlFreezeCommand(), a.ctlThawCommand())
	return cmd
}

// ctlPurgeCommand is kmsfs ctl purge.
func (a *app) ctlPurgeCommand() *cobra.Command {
	var out outputFlags
	cmd := &cobra.Command{
		Use:   "purge MOUNTPOINT|VAULT",
		Short: "Wipe the data keys that a mount keeps",
		Long: `Wipe the data keys and branch keys that the mount keeps in memory, forget the refusals of the keysource, and give up the
data keys that were made ahead of need. A key that is needed again is asked for again, also that of an open file: a CMK that was
disabled, or a policy that was changed, counts at once and not only after --key-cache-max-age. What was written stays.`,
		Example: "  kmsfs ctl purge ~/plain",
		Args:    args("MOUNTPOINT|VAULT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var info purgeInfo
			if err := a.controlOne(cmd, args[0], "purge", struct{}{}, &info); err != nil {
				return err
			}
			if out.json {
				return writeJSON(a.stdout, info)
			}
			_, err := fmt.Fprintf(a.stdout, "wiped %d keys of the cache and %d made ahead\n", info.Cached, info.Ahead)
			return err
		},
	}
	out.add(cmd.Flags())
	return cmd
}

// ctlFlushCommand is kmsfs ctl flush.
func (a *app) ctlFlushCommand() *cobra.Command {
	var out outputFlags
	cmd := &cobra.Command{
		Use:   "flush MOUNTPOINT|VAULT",
		Short: "Make durable what was written to a mount",
		Long: `Write what the kernel and the daemon hold to the vault, make it durable, and do the work that the daemon has put off, such as
erasing the keys of deleted files. What is written meanwhile may not be in it.`,
		Example: "  kmsfs ctl flush ~/plain",
		Args:    args("MOUNTPOINT|VAULT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var info flushInfo
			err := a.controlOne(cmd, args[0], "flush", struct{}{}, &info)
			if err == nil && out.json {
				return writeJSON(a.stdout, info)
			}
			return err
		},
	}
	out.add(cmd.Flags())
	return cmd
}

// ctlMetricsCommand is kmsfs ctl metrics.
func (a *app) ctlMetricsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "metrics MOUNTPOINT|VAULT",
		Short: "Show the metrics of a mount",
		Long: `Show the metrics of a mount in the text format of Prometheus: calls of the keysource by result and time, the cache of data
keys, keys made and fetched ahead, open files, the journal, operations that failed. They name no path, CMK or user. kmsfs mount
--metrics-listen shows them over HTTP.`,
		Example: "  kmsfs ctl metrics ~/plain | grep kmsfs_keysource",
		Args:    args("MOUNTPOINT|VAULT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := controlMount(args[0])
			if err != nil {
				return err
			}
			text, err := a.controlHTTP(cmd.Context(), m, http.MethodGet, controlMetrics, nil)
			if err != nil {
				return err
			}
			defer text.Close()
			_, err = io.Copy(a.stdout, text)
			return err
		},
	}
}

// ctlFreezeCommand is kmsfs ctl freeze.
func (a *app) ctlFreezeCommand() *cobra.Command {
	var out outputFlags
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "freeze MOUNTPOINT|VAULT",
		Short: "Hold all changes, for a snapshot or copy of the vault",
		Long: `Flush, and hold whoever changes something on the mount until kmsfs ctl thaw, so that a copy or snapshot of the vault is of one
moment. Reading goes on. A program that is held waits and cannot be killed meanwhile. After --timeout the mount thaws by itself,
whatever happens; kmsfs ctl thaw then fails with exit code 33, and the copy may not be of one moment.`,
		Example: `  kmsfs ctl freeze --timeout 60s ~/plain
  cp -a ~/vault /backup/vault
  kmsfs ctl thaw ~/plain`,
		Args: args("MOUNTPOINT|VAULT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkFreeze(timeout.Seconds()); err != nil {
				return err
			}
			var info frozenInfo
			err := a.controlOne(cmd, args[0], "freeze", freezeRequest{Seconds: timeout.Seconds()}, &info)
			if err == nil && out.json {
				return writeJSON(a.stdout, info)
			}
			return err
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", time.Minute, "thaw after `TIME` at the latest, up to 1h")
	out.add(cmd.Flags())
	return cmd
}

// ctlThawCommand is kmsfs ctl thaw.
func (a *app) ctlThawCommand() *cobra.Command {
	var out outputFlags
	cmd := &cobra.Command{
		Use:   "thaw MOUNTPOINT|VAULT",
		Short: "Let changes go on after a freeze",
		Long: `Let changes go on after kmsfs ctl freeze. Exit code 0 says that the mount was frozen until now; 33 that it was not, or that its
time was up: take the copy again.`,
		Example: "  kmsfs ctl thaw ~/plain",
		Args:    args("MOUNTPOINT|VAULT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var info thawedInfo
			err := a.controlOne(cmd, args[0], "thaw", thawRequest{}, &info)
			if err == nil && out.json {
				return writeJSON(a.stdout, info)
			}
			return err
		},
	}
	out.add(cmd.Flags())
	return cmd
}

// controlOne has the daemon at path do a verb whose answer is one line, read into v.
func (a *app) controlOne(cmd *cobra.Command, path, verb string, request, v any) error {
	m, err := controlMount(path)
	if err != nil {
		return err
	}
	return a.control(cmd.Context(), m, verb, request, func(line json.RawMessage) error { return json.Unmarshal(line, v) })
}
