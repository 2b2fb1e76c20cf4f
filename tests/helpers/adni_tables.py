"""Tables as the classic and the new download pages of ADNI write them."""

CLASSIC = (
    '"Image Data ID","Subject","Group","Sex","Age","Visit","Modality","Description","Type",'
    '"Acq Date","Format","Downloaded"\n'
    '"I101","001_S_0001","CN","F","75","sc","MRI","MT1; N3m","Processed","5/09/2013","DCM",""\n'
    '"102","001_S_0001","CN","F","75","sc","PET","Co-registered, Averaged","Processed",'
    '"5/20/2013","NiFTI",""\n'
)
SEARCH = (
    "Subject ID,Phase,Sex,Research Group,Visit,Study Date,Age,Modality,Description,Type,Image ID\n"
    "001_S_0001,ADNI 2,F,CN,sc,2013-05-09,75,MRI,MT1; N3m,Processed,101\n"
    '001_S_0001,ADNI 2,F,CN,sc,2013-05-20,75,PET,"Co-registered, Averaged",Processed,102\n'
)
