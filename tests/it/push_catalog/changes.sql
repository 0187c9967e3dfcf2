ALTER TABLE public.dataset SET (fillfactor = 81)
ALTER TABLE public.dataset RESET (autovacuum_vacuum_scale_factor)
ALTER TABLE public.dataset SET (toast.autovacuum_enabled = on)
ALTER TABLE public.dataset OWNER TO team
ALTER TABLE public.dataset DISABLE ROW LEVEL SECURITY
ALTER TABLE public.dataset FORCE ROW LEVEL SECURITY
ALTER TABLE public.dataset REPLICA IDENTITY FULL
ALTER TABLE public.dataset REPLICA IDENTITY USING INDEX dataset_pkey
ALTER TABLE public.dataset SET WITHOUT CLUSTER
ALTER TABLE public.dataset CLUSTER ON for_replicas
ALTER TABLE public.dataset RENAME TO datasets
ALTER TABLE public.dataset ADD COLUMN more int
ALTER TABLE public.dataset DROP COLUMN note CASCADE
ALTER TABLE public.dataset RENAME COLUMN note TO notes
ALTER TABLE public.child ALTER other TYPE int
ALTER TABLE public.dataset ALTER note SET DEFAULT 'y'
ALTER TABLE public.dataset ALTER note DROP DEFAULT
ALTER TABLE public.dataset ALTER note SET NOT NULL
ALTER TABLE public.dataset ALTER made DROP NOT NULL
ALTER TABLE public.dataset ALTER note SET STORAGE MAIN
ALTER TABLE public.dataset ALTER name SET COMPRESSION default
ALTER TABLE public.dataset ALTER name SET STATISTICS 501
ALTER TABLE public.dataset ALTER name RESET (n_distinct)
ALTER TABLE public.dataset ALTER twice DROP EXPRESSION
ALTER TABLE public.dataset ALTER nr SET GENERATED ALWAYS
ALTER TABLE public.dataset ALTER nr DROP IDENTITY
ALTER TABLE public.dataset ALTER nr SET INCREMENT 6
ALTER TABLE public.dataset ALTER nr SET CACHE 4
ALTER SEQUENCE public.dataset_nr_seq RENAME TO other_seq
ALTER SEQUENCE public.dataset_nr_seq AS bigint
GRANT ALL ON SEQUENCE public.dataset_nr_seq TO authenticated
COMMENT ON SEQUENCE public.dataset_nr_seq IS 'another'
ALTER SEQUENCE public.dataset_ticket_seq OWNED BY NONE
COMMENT ON TABLE public.dataset IS NULL
COMMENT ON COLUMN public.dataset.name IS 'another'
COMMENT ON CONSTRAINT dataset_pkey ON public.dataset IS NULL
COMMENT ON INDEX public.dataset_name IS NULL
GRANT INSERT ON public.dataset TO anon
REVOKE SELECT ON public.dataset FROM PUBLIC
REVOKE GRANT OPTION FOR SELECT ON public.dataset FROM authenticated
GRANT TRUNCATE ON public.dataset TO app
GRANT SELECT (round) ON public.dataset TO anon
REVOKE UPDATE (name) ON public.dataset FROM anon
ALTER TABLE public.dataset DROP CONSTRAINT round_positive
ALTER TABLE public.dataset VALIDATE CONSTRAINT even_or_not
ALTER TABLE public.dataset RENAME CONSTRAINT round_positive TO round_ok
ALTER TABLE public.dataset ADD CHECK (id > -1000000)
ALTER TABLE public.dataset ALTER CONSTRAINT of_round DEFERRABLE INITIALLY DEFERRED
ALTER TABLE public.dataset DROP CONSTRAINT of_sire
ALTER TABLE public.dataset ADD CONSTRAINT more FOREIGN KEY (round) REFERENCES public.parent
COMMENT ON CONSTRAINT of_round ON public.dataset IS NULL
CREATE INDEX more ON public.dataset (made)
DROP INDEX public.dataset_name
ALTER INDEX public.dataset_name RENAME TO other
ALTER INDEX public.dataset_pkey SET (fillfactor = 71)
ALTER INDEX public."Odd ""index""" ALTER COLUMN 2 SET STATISTICS 78
CREATE POLICY more ON public.dataset USING (true)
DROP POLICY service ON public.dataset
ALTER POLICY own ON public.dataset TO anon
ALTER POLICY own ON public.dataset USING (round > 1)
ALTER POLICY own ON public.dataset WITH CHECK (name = 'me')
ALTER POLICY own ON public.dataset RENAME TO mine
COMMENT ON POLICY own ON public.dataset IS NULL
DROP TRIGGER touched ON public.dataset
ALTER TABLE public.dataset ENABLE TRIGGER "Off, now"
ALTER TABLE public.dataset ENABLE REPLICA TRIGGER late
ALTER TABLE public.dataset DISABLE TRIGGER ALL
CREATE TRIGGER more AFTER INSERT ON public.dataset EXECUTE FUNCTION public.touch()
COMMENT ON TRIGGER touched ON public.dataset IS NULL
ALTER TABLE public.dataset ENABLE RULE "Off rule"
DROP RULE on_truncated ON public.dataset
COMMENT ON RULE "Off rule" ON public.dataset IS NULL
ALTER STATISTICS public."Odd stats" SET STATISTICS 56
ALTER STATISTICS public."Odd stats" OWNER TO team
COMMENT ON STATISTICS public."Odd stats" IS NULL
DROP STATISTICS public.plain
CREATE TABLE public.heir () INHERITS (public.dataset)
ALTER VIEW public.names RESET (security_barrier)
ALTER VIEW public.names RESET (check_option)
ALTER VIEW public.names OWNER TO team
ALTER VIEW public.names ALTER round DROP DEFAULT
COMMENT ON VIEW public.names IS NULL
COMMENT ON COLUMN public.names.id IS NULL
REVOKE SELECT ON public.names FROM anon
CREATE OR REPLACE VIEW public.above AS SELECT d.id, d.name, count(*) FROM public.dataset d GROUP BY d.id
CREATE VIEW public.more AS SELECT 1 FROM public.dataset
DROP VIEW public.both
DROP RULE through_names ON public.names
CREATE OR REPLACE RULE on_names AS ON DELETE TO public.names DO INSTEAD DELETE FROM public.dataset WHERE id = OLD.id
ALTER MATERIALIZED VIEW public.rounds SET (fillfactor = 91)
ALTER MATERIALIZED VIEW public.rounds OWNER TO team
ALTER MATERIALIZED VIEW public.rounds SET WITHOUT CLUSTER
ALTER MATERIALIZED VIEW public.rounds ALTER last SET STATISTICS 45
ALTER MATERIALIZED VIEW public.rounds ALTER last SET STORAGE MAIN
REFRESH MATERIALIZED VIEW public.rounds WITH NO DATA
DROP INDEX public.rounds_last
DROP STATISTICS public.of_rounds
COMMENT ON MATERIALIZED VIEW public.rounds IS NULL
COMMENT ON COLUMN public.rounds.round IS NULL
GRANT SELECT ON public.rounds TO anon
ALTER TABLE public.child DROP CONSTRAINT of_dataset
ALTER TABLE public.child VALIDATE CONSTRAINT "One nr"
ALTER TABLE public.child ALTER CONSTRAINT pair DEFERRABLE
COMMENT ON CONSTRAINT of_dataset ON public.child IS NULL
ALTER POLICY those ON public.guarded USING (true)
COMMENT ON POLICY those ON public.guarded IS NULL
ALTER TABLE public.guarded ENABLE RULE into_dataset
DROP RULE into_dataset ON public.guarded
ALTER FUNCTION public.body() OWNER TO team
ALTER FUNCTION public.body() SECURITY INVOKER
GRANT EXECUTE ON FUNCTION public.body() TO PUBLIC
COMMENT ON FUNCTION public.body() IS NULL
CREATE OR REPLACE FUNCTION public.body() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM public.dataset; END
DROP FUNCTION public.latest
REVOKE EXECUTE ON FUNCTION public.label(public.dataset) FROM authenticated
COMMENT ON FUNCTION public.label(public.dataset) IS NULL
ALTER FUNCTION public.label(public.dataset) IMMUTABLE
ALTER PUBLICATION supabase_realtime SET TABLE public.dataset (id) WHERE (id > 5)
ALTER PUBLICATION supabase_realtime SET TABLE public.dataset (id, round) WHERE (id > 6)
ALTER PUBLICATION supabase_realtime OWNER TO team
ALTER PUBLICATION lists DROP TABLE public.dataset
